/* layer_search.c - see layer_search.h. Models inside models are gone through with a stack of
 * their own: documents may come from anyone. */
#include "api/layer_search.h"

#include <stdio.h>
#include <string.h>

#include "engine/name_list.h"

enum { DEPTH_LIMIT = 32, PATH_BYTES = 1024 };

static const char layer_class[] = "ReuseMultiHeadAttention";
static const char block_class[] = "ReuseTransformer";

/* "Text>ReuseMultiHeadAttention" of a registered class is its last part. */
static const char *class_of(const json_t *object)
{
    const char *name = json_string_value(json_object_get(object, "class_name"));
    const char *last = name != NULL ? strrchr(name, '>') : NULL;
    return last != NULL ? last + 1 : name != NULL ? name : "";
}

static const char *name_of(const json_t *object)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(object, "config"), "name"));
    if (name == NULL)
        name = json_string_value(json_object_get(object, "name"));
    return name != NULL ? name : "";
}

/* The layers of a model: of its serialization, or of its get_config(); NULL: no model. Before
 * Keras 2.2.3 a Sequential's config was the list itself. */
static const json_t *layers_of(const json_t *object)
{
    const json_t *config = json_object_get(object, "config");
    const json_t *layers = json_object_get(config != NULL ? config : object, "layers");
    if (json_is_array(config))
        return config;
    return json_is_array(layers) ? layers : NULL;
}

/* ---- the walk ------------------------------------------------------------------------------ */

struct frame {
    const json_t *layers; /* a list; NULL: "layer" alone, of a wrapper */
    const json_t *layer;
    size_t next;
    size_t path_length;
    const char *wrapper; /* class of the wrapper round all of these; NULL: none */
};

struct walk {
    const char *wanted; /* NULL: any */
    struct frame frames[DEPTH_LIMIT];
    int depth;
    char path[PATH_BYTES];
    struct engine_name_list all, fitting;
    size_t all_count, fitting_count;
    const json_t *found;
    const char *found_wrapper;
    char found_name[128];
    const char *block; /* name of a ReuseTransformer; NULL: none */
};

static void set_path(struct walk *walk, size_t length, const char *name)
{
    snprintf(walk->path + length, sizeof walk->path - length, "%s%s", length > 0 ? "/" : "", name);
}

static void visit_layer(struct walk *walk, const json_t *object, const char *wrapper)
{
    walk->all_count++;
    engine_name_list_add(&walk->all, walk->path);
    if (walk->wanted != NULL && strcmp(walk->wanted, name_of(object)) != 0 &&
        strcmp(walk->wanted, walk->path) != 0)
        return;
    engine_name_list_add(&walk->fitting, walk->path);
    if (walk->fitting_count++ > 0)
        return;
    walk->found = object;
    walk->found_wrapper = wrapper;
    snprintf(walk->found_name, sizeof walk->found_name, "%s", name_of(object));
}

/* A layer, or a model or wrapper whose layers come next. */
static enum engine_code visit(struct walk *walk, const json_t *object, const char *wrapper,
                              struct engine_error *err)
{
    const json_t *layers = layers_of(object);
    const json_t *layer = json_object_get(json_object_get(object, "config"), "layer");
    if (strcmp(class_of(object), layer_class) == 0) {
        visit_layer(walk, object, wrapper);
        return ENGINE_OK;
    }
    if (strcmp(class_of(object), block_class) == 0)
        walk->block = name_of(object);
    if (layers == NULL && !json_is_object(layer))
        return ENGINE_OK;
    if (walk->depth == DEPTH_LIMIT)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "models are nested more than %d deep in the configuration",
                                DEPTH_LIMIT);
    walk->frames[walk->depth++] =
        (struct frame){.layers = layers,
                       .layer = layer,
                       .path_length = strlen(walk->path),
                       .wrapper = layers != NULL ? wrapper : class_of(object)};
    return ENGINE_OK;
}

static const json_t *next_of(struct frame *frame)
{
    size_t i = frame->next++;
    if (frame->layers == NULL)
        return i == 0 ? frame->layer : NULL;
    return json_array_get(frame->layers, i);
}

/* The root's own name is in no path. */
static enum engine_code walk_all(struct walk *walk, const json_t *root, struct engine_error *err)
{
    ENGINE_TRY(visit(walk, root, NULL, err));
    while (walk->depth > 0) {
        struct frame *frame = &walk->frames[walk->depth - 1];
        const json_t *object = next_of(frame);
        if (object == NULL) {
            walk->depth--;
            continue;
        }
        set_path(walk, frame->path_length, name_of(object));
        ENGINE_TRY(visit(walk, object, frame->wrapper, err));
    }
    return ENGINE_OK;
}

/* ---- the judgement ------------------------------------------------------------------------- */

static enum engine_code refuse_block(const char *name, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_UNSUPPORTED,
                            "%.100s is a ReuseTransformer, a block of several layers; served is "
                            "its attention alone: write the configuration and the weights of "
                            "block._attention_layer",
                            name[0] != '\0' ? name : "the layer");
}

static enum engine_code refuse_none(struct walk *walk, const json_t *root, struct engine_error *err)
{
    const char *class_name = class_of(root);
    if (walk->all_count > 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "model.json: layer is %.100s; the layers to be served are %s",
                                walk->wanted, engine_name_list_text(&walk->all));
    if (walk->block != NULL)
        return refuse_block(walk->block, err);
    if (layers_of(root) != NULL)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "the model holds no ReuseMultiHeadAttention, which is what is "
                                "served");
    return engine_error_set(err, ENGINE_UNSUPPORTED,
                            "class_name is %.80s, served is ReuseMultiHeadAttention",
                            class_name[0] != '\0' ? class_name : "missing");
}

static enum engine_code judge(struct walk *walk, const json_t *root, const json_t **ret,
                              struct engine_error *err)
{
    if (walk->fitting_count == 0)
        return refuse_none(walk, root, err);
    if (walk->fitting_count > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "there are several layers: %s; \"layer\" in model.json says which "
                                "is meant",
                                engine_name_list_text(&walk->fitting));
    if (walk->found_wrapper != NULL)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "layer %s is wrapped in %.60s, which changes what it is given and "
                                "is not served; write the configuration of the layer inside",
                                walk->found_name, walk->found_wrapper);
    *ret = json_object_get(walk->found, "config");
    if (json_is_object(*ret))
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "configuration key config must be an object");
}

/* get_config() itself, without a class round it: its keys tell. */
static enum engine_code find_bare(const json_t *root, const char *name, const json_t **ret,
                                  struct engine_error *err)
{
    const char *own = json_string_value(json_object_get(root, "name"));
    if (json_object_get(root, "num_attention_heads") != NULL)
        return refuse_block(own != NULL ? own : "", err);
    if (name != NULL && (own == NULL || strcmp(own, name) != 0))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "model.json: layer is %.100s; the layer to be served is %.100s",
                                name, own != NULL ? own : "one without a name");
    *ret = root;
    return ENGINE_OK;
}

enum engine_code api_layer_search_find(const json_t *root, const char *name, const json_t **ret,
                                       struct engine_error *err)
{
    struct walk walk = {.wanted = name};
    if (!json_is_object(root))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the configuration must be an object");
    if (json_object_get(root, "class_name") == NULL && json_object_get(root, "config") == NULL &&
        layers_of(root) == NULL)
        return find_bare(root, name, ret, err);
    set_path(&walk, 0, strcmp(class_of(root), layer_class) == 0 ? name_of(root) : "");
    ENGINE_TRY(walk_all(&walk, root, err));
    return judge(&walk, root, ret, err);
}

bool api_layer_search_is_keras(const json_t *root)
{
    static const char *const keys[] = {
        "num_heads",    "num_attention_heads", "registered_name",
        "module",       "keras_version",       "input_layers",
        "build_config", "shared_object_id",    "expects_training_arg"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (json_object_get(root, keys[i]) != NULL)
            return true;
    return false;
}
