/* model_files.c - see model_files.h. */
#include "api/model_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/layer_config.h"
#include "api/layer_search.h"
#include "api/limits.h"
#include "api/python_json.h"
#include "engine/formats/safetensors.h"
#include "engine/name_list.h"

/* A model of a hundred layers writes half a megabyte of configuration. */
enum { CONFIG_BYTES = 4 << 20, NAME_BYTES = 256 };

/* Where the files come from. */
struct place {
    const char *directory; /* NULL: only files in memory */
    const struct api_model_file *files;
    size_t files_count;
};

/* A file's bytes: a view, or owned. */
struct content {
    const void *bytes;
    size_t size;
    void *owned;
};

/* What model.json says. */
struct serving {
    json_t *config;         /* the layer's, or a model's that holds it; NULL: in layer.json */
    json_t *layer, *prefix; /* texts; NULL: not given */
    bool is_layer;          /* the text read last was a configuration of Keras, not model.json */
    char weights[NAME_BYTES];
    bool initialize;
    uint64_t seed;
    struct api_model_settings settings;
};

/* ---- files --------------------------------------------------------------------------------- */

/* To read, without waiting for a pipe's writer; and to see whether a file is there, which needs no
 * right to read it. */
enum { READ_FLAGS = O_RDONLY | O_CLOEXEC | O_NONBLOCK, LOOK_FLAGS = O_PATH | O_CLOEXEC };

/* For kernels and sandboxes without openat2: the resolved path, links followed, must begin with
 * the directory's. Who can write there could swap a link meanwhile: second best. */
static int open_resolved(const char *directory, const char *path, int flags)
{
    char root[PATH_MAX], joined[PATH_MAX], full[PATH_MAX];
    int length = snprintf(joined, sizeof joined, "%s/%s", directory, path);
    errno = EXDEV;
    if (path[0] == '/' || length >= (int)sizeof joined || realpath(directory, root) == NULL ||
        realpath(joined, full) == NULL)
        return -1;
    size_t root_length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    errno = EXDEV;
    if (strncmp(full, root, root_length) != 0 || full[root_length] != '/')
        return -1;
    return open(full, flags | O_NOFOLLOW);
}

/* Opens a path below a directory; nothing leads out of it, no "..", no link. -1: errno. */
static int open_beneath(const char *directory, const char *path, int flags)
{
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_BENEATH};
    int at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (at < 0)
        return -1;
    int descriptor = (int)syscall(SYS_openat2, at, path, &how, sizeof how);
    int error = errno;
    close(at);
    /* EPERM is what sandboxes answer to a system call that they do not know. */
    if (descriptor < 0 && (error == ENOSYS || error == EPERM))
        return open_resolved(directory, path, flags);
    errno = error;
    return descriptor;
}

static enum engine_code read_descriptor(int descriptor, const char *name, size_t limit,
                                        struct content *ret, struct engine_error *err)
{
    struct stat status;
    size_t at = 0;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%.100s is no regular file", name);
    size_t size = (size_t)status.st_size;
    if (size > limit)
        return engine_error_set(err, ENGINE_TOO_LARGE, "%.100s has %zu bytes; %zu are allowed",
                                name, size, limit);
    char *bytes = malloc(size + 1);
    if (bytes == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for %.100s", name);
    while (at < size) {
        ssize_t got = read(descriptor, bytes + at, size - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            engine_error_set_detail(err, "%zu of %zu bytes: %s", at, size,
                                    got < 0 ? strerror(errno) : "it became shorter");
            free(bytes);
            return engine_error_set(err, ENGINE_UNAVAILABLE,
                                    "file %.150s could not be read to its end", name);
        }
        at += (size_t)got;
    }
    *ret = (struct content){bytes, at, bytes};
    return ENGINE_OK;
}

static bool is_absent(int error)
{
    return error == ENOENT || error == ENOTDIR || error == ELOOP || error == EXDEV;
}

/* Of memory or descriptors. */
static bool is_short(int error)
{
    return error == ENOMEM || error == EMFILE || error == ENFILE;
}

/* The reason is for everybody; where the file lies, whose it is and who reads is the operator's. */
static enum engine_code refuse_open(const char *directory, const char *name, int error,
                                    struct engine_error *err)
{
    char path[PATH_MAX], rights[80] = "";
    struct stat status;
    if (is_absent(error))
        return engine_error_set(err, ENGINE_NOT_FOUND, "file %.150s is missing or out of reach",
                                name);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (stat(path, &status) == 0)
        snprintf(rights, sizeof rights, ", mode %04o of user %u, group %u", status.st_mode & 07777,
                 status.st_uid, status.st_gid);
    engine_error_set_detail(err, "%.300s: %s (errno %d)%s; attnd is user %u, group %u", path,
                            strerror(error), error, rights, geteuid(), getegid());
    if (is_short(error))
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY,
                                "cannot open %.150s: memory or descriptors are short", name);
    if (error == EACCES || error == EPERM)
        return engine_error_set(err, ENGINE_UNAVAILABLE,
                                "file %.150s is there, but the server has no right to read it; "
                                "whom it belongs to can grant it (chmod a+r)",
                                name);
    return engine_error_set(err, ENGINE_UNAVAILABLE, "file %.150s cannot be opened", name);
}

static const struct api_model_file *find_file(const struct place *place, const char *name)
{
    for (size_t i = 0; i < place->files_count; i++)
        if (strcmp(place->files[i].name, name) == 0)
            return &place->files[i];
    return NULL;
}

static enum engine_code read_file(const struct place *place, const char *name, size_t limit,
                                  struct content *ret, struct engine_error *err)
{
    const struct api_model_file *file = find_file(place, name);
    if (file != NULL) {
        *ret = (struct content){file->bytes, file->size, NULL};
        return ENGINE_OK;
    }
    if (place->directory == NULL || place->files_count > 0)
        return refuse_open("", name, ENOENT, err);
    int descriptor = open_beneath(place->directory, name, READ_FLAGS);
    if (descriptor < 0)
        return refuse_open(place->directory, name, errno, err);
    enum engine_code code = read_descriptor(descriptor, name, limit, ret, err);
    close(descriptor);
    return code;
}

/* What lies in a directory that may not be searched counts as not there: a volume's lost+found is
 * no model. */
static enum engine_code has_file(const struct place *place, const char *name, bool *ret,
                                 struct engine_error *err)
{
    *ret = find_file(place, name) != NULL;
    if (place->files_count > 0 || place->directory == NULL)
        return ENGINE_OK;
    int descriptor = open_beneath(place->directory, name, LOOK_FLAGS);
    *ret = descriptor >= 0;
    if (descriptor < 0)
        return is_absent(errno) || errno == EACCES
                   ? ENGINE_OK
                   : refuse_open(place->directory, name, errno, err);
    close(descriptor);
    return ENGINE_OK;
}

enum engine_code api_model_files_is_model(const char *directory, bool *ret,
                                          struct engine_error *err)
{
    const struct place place = {.directory = directory};
    ENGINE_TRY(has_file(&place, "layer.json", ret, err));
    return *ret ? ENGINE_OK : has_file(&place, "model.json", ret, err);
}

/* ---- weight files -------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), tail = strlen(end);
    return length > tail && strcmp(name + length - tail, end) == 0;
}

/* Formats of weights that people have and this server does not read. */
static const char *other_format(const char *name)
{
    static const char *const ends[][2] = {{".safetensors.index.json", "an index of safetensors"},
                                          {".h5", "HDF5"},
                                          {".hdf5", "HDF5"},
                                          {".keras", "Keras archive"},
                                          {".npz", "NumPy archive"},
                                          {".index", "TensorFlow checkpoint"},
                                          {".pb", "SavedModel"},
                                          {".bin", "PyTorch"},
                                          {".pt", "PyTorch"}};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends_with(name, ends[i][0]))
            return ends[i][1];
    return NULL;
}

/* Files seen while looking for the one that holds the weights. */
struct search {
    int found;
    char name[NAME_BYTES];
    struct engine_name_list list;
    const char *other;
};

static void look_at(struct search *search, const char *name)
{
    const char *other = other_format(name);
    bool ours = ends_with(name, ".safetensors") && strcmp(name, "call.safetensors") != 0 &&
                strlen(name) < NAME_BYTES;
    if (other != NULL)
        search->other = other;
    if (ours) {
        search->found++;
        snprintf(search->name, sizeof search->name, "%s", name);
    }
    if (ours || other != NULL)
        engine_name_list_add(&search->list, name);
}

static enum engine_code search_place(const struct place *place, struct search *search,
                                     struct engine_error *err)
{
    for (size_t i = 0; i < place->files_count; i++)
        look_at(search, place->files[i].name);
    if (place->files_count > 0 || place->directory == NULL)
        return ENGINE_OK;
    DIR *directory = opendir(place->directory);
    if (directory == NULL) {
        engine_error_set_detail(err, "%.300s: %s (errno %d)", place->directory, strerror(errno),
                                errno);
        return engine_error_set(err, is_short(errno) ? ENGINE_OUT_OF_MEMORY : ENGINE_UNAVAILABLE,
                                "the model's directory cannot be listed");
    }
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        look_at(search, entry->d_name);
    closedir(directory);
    return ENGINE_OK;
}

/* weights.safetensors, or the only other candidate. */
static enum engine_code find_weights(const struct place *place, char name[NAME_BYTES],
                                     struct engine_error *err)
{
    struct search search = {.found = 0};
    bool is_there;
    ENGINE_TRY(has_file(place, "weights.safetensors", &is_there, err));
    if (is_there) {
        strcpy(name, "weights.safetensors");
        return ENGINE_OK;
    }
    ENGINE_TRY(search_place(place, &search, err));
    if (search.found == 1) {
        strcpy(name, search.name);
        return ENGINE_OK;
    }
    if (search.found == 0 && search.other != NULL)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "weights are given as %s (%s), which is not read here; convert "
                                "them to weights.safetensors",
                                search.other, engine_name_list_text(&search.list));
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "exactly one weight file must be there, weights.safetensors; found: "
                            "%s",
                            search.found == 0 ? "none" : engine_name_list_text(&search.list));
}

static enum engine_code open_weights(const struct place *place, struct serving *serving,
                                     struct content *bytes, struct engine_safetensors **ret,
                                     struct engine_error *err)
{
    if (serving->weights[0] == '\0')
        ENGINE_TRY(find_weights(place, serving->weights, err));
    else if (strstr(serving->weights, "://") != NULL)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "weights are given as a URL (%.100s), which is not fetched here",
                                serving->weights);
    else if (other_format(serving->weights) != NULL)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "weights are given as %s (%.100s), which is not read here",
                                other_format(serving->weights), serving->weights);
    ENGINE_TRY(read_file(place, serving->weights, SIZE_MAX >> 1, bytes, err));
    struct engine_error cause = {.code = ENGINE_OK};
    enum engine_code code = engine_safetensors_parse(bytes->bytes, bytes->size, ret, &cause);
    return code == ENGINE_OK
               ? ENGINE_OK
               : engine_error_set(err, code, "%.100s: %s", serving->weights, cause.message);
}

/* ---- model.json ---------------------------------------------------------------------------- */

static enum engine_code refuse(const char *key, const char *rule, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "model.json: %s must be %s", key, rule);
}

static enum engine_code read_name(const char *key, const json_t *value, char name[NAME_BYTES],
                                  struct engine_error *err)
{
    const char *text = json_string_value(value);
    if (text == NULL || strlen(text) >= NAME_BYTES)
        return refuse(key, "a text of at most 255 bytes", err);
    strcpy(name, text);
    return ENGINE_OK;
}

static enum engine_code read_outputs(const json_t *value, struct api_model_defaults *ret,
                                     struct engine_error *err)
{
    if (!json_is_array(value) || json_array_size(value) == 0)
        return refuse("outputs", "a list of attention_output and attention_scores", err);
    ret->has_outputs = true;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *name = json_string_value(json_array_get(value, i));
        int output = 0;
        while (output <= ENGINE_ATTENTION_SCORES &&
               (name == NULL || strcmp(name, engine_output_name((enum engine_output)output)) != 0))
            output++;
        if (output > ENGINE_ATTENTION_SCORES)
            return refuse("outputs", "a list of attention_output and attention_scores", err);
        ret->outputs[output] = true;
    }
    return ENGINE_OK;
}

static enum engine_code read_warmup(const json_t *value, struct api_model_settings *ret,
                                    struct engine_error *err)
{
    static const char rule[] = "a list of at most 8 shapes [B,T,S] of positive integers";
    if (!json_is_array(value) || json_array_size(value) > 8)
        return refuse("warmup", rule, err);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *shape = json_array_get(value, i);
        if (json_array_size(shape) != 3)
            return refuse("warmup", rule, err);
        for (size_t j = 0; j < 3; j++) {
            json_int_t size = json_integer_value(json_array_get(shape, j));
            if (size < 1 || size > 1 << 20)
                return refuse("warmup", rule, err);
            ret->warmup[i][j] = size;
        }
        ret->warmup_count++;
    }
    return ENGINE_OK;
}

static enum engine_code read_document(const struct place *place, const char *name, json_t **ret,
                                      struct engine_error *err)
{
    struct content content = {NULL, 0, NULL};
    ENGINE_TRY(read_file(place, name, CONFIG_BYTES, &content, err));
    enum engine_code code = api_python_json_load(name, content.bytes, content.size, ret, err);
    free(content.owned);
    return code;
}

/* Of a layer or a model: an object, or the path of a file. */
static enum engine_code read_config(const struct place *place, const json_t *value,
                                    struct serving *ret, struct engine_error *err)
{
    if (json_is_string(value))
        return read_document(place, json_string_value(value), &ret->config, err);
    if (!json_is_object(value) && !json_is_array(value))
        return refuse("config", "an object, or the path of a file", err);
    ret->config = json_incref((json_t *)value);
    return ENGINE_OK;
}

/* The class belongs to the configuration beside it: {"class_name", "config"} is what Keras writes
 * of a layer or a model, unless the configuration says its class itself. Without a configuration
 * it says what layer.json has to be. */
static enum engine_code settle_class(json_t *root, struct serving *ret, struct engine_error *err)
{
    json_t *name = json_object_get(root, "class_name");
    const json_t *config = NULL;
    enum engine_code code = ENGINE_OK;
    if (name == NULL || json_object_get(ret->config, "class_name") != NULL)
        return ENGINE_OK;
    if (!json_is_string(name))
        return refuse("class_name", "a text", err);
    json_t *joined = ret->config != NULL
                         ? json_pack("{s:O,s:O}", "class_name", name, "config", ret->config)
                         : json_pack("{s:O,s:{}}", "class_name", name, "config");
    if (joined == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for model.json");
    if (ret->config == NULL) {
        code = api_layer_search_find(joined, NULL, &config, err);
        json_decref(joined);
        return code;
    }
    json_decref(ret->config);
    ret->config = joined;
    return ENGINE_OK;
}

/* Names of layers and scopes may be of any length: Keras permits them. */
static enum engine_code keep_text(const char *key, const json_t *value, json_t **ret,
                                  struct engine_error *err)
{
    if (!json_is_string(value))
        return refuse(key, "a text", err);
    *ret = json_incref((json_t *)value);
    return ENGINE_OK;
}

static enum engine_code read_key(const struct place *place, const char *key, json_t *value,
                                 struct serving *ret, struct engine_error *err)
{
    if (strcmp(key, "class_name") == 0)
        return ENGINE_OK; /* settle_class */
    if (strcmp(key, "config") == 0)
        return read_config(place, value, ret, err);
    if (strcmp(key, "weights") == 0)
        return read_name(key, value, ret->weights, err);
    if (strcmp(key, "prefix") == 0)
        return keep_text(key, value, &ret->prefix, err);
    if (strcmp(key, "layer") == 0)
        return keep_text(key, value, &ret->layer, err);
    if (strcmp(key, "outputs") == 0)
        return read_outputs(value, &ret->settings.defaults, err);
    if (strcmp(key, "warmup") == 0)
        return read_warmup(value, &ret->settings, err);
    if (strcmp(key, "initialize") == 0) {
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return refuse(key, "a seed, an integer of at least 0", err);
        ret->initialize = true;
        ret->seed = (uint64_t)json_integer_value(value);
        return ENGINE_OK;
    }
    if (strcmp(key, "precision") == 0) {
        const char *name = json_string_value(value);
        if (name == NULL || !engine_precision_from_name(name, &ret->settings.precision))
            return refuse(key, "f32, x3 or bf16", err);
        return ENGINE_OK;
    }
    if (strcmp(key, "layers") == 0)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "model.json: layers is given; chains of layers are not served");
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "model.json: key %.60s is not known",
                            key);
}

/* A document of Keras and model.json may stand in each other's place: the keys tell. */
static enum engine_code read_model_json(const struct place *place, const void *bytes, size_t size,
                                        struct serving *ret, struct engine_error *err)
{
    json_t *root, *value;
    const char *key;
    enum engine_code code = ENGINE_OK;
    ENGINE_TRY(api_python_json_load("model.json", bytes, size, &root, err));
    if (!json_is_object(root)) {
        code = engine_error_set(err, ENGINE_INVALID_ARGUMENT, "model.json must be an object");
    } else if (api_layer_search_is_keras(root)) {
        ret->is_layer = true;
        ret->config = json_incref(root);
    } else {
        json_object_foreach(root, key, value) if (code == ENGINE_OK) code =
            read_key(place, key, value, ret, err);
        if (code == ENGINE_OK)
            code = settle_class(root, ret, err);
    }
    json_decref(root);
    return code;
}

static enum engine_code read_model_file(const struct place *place, struct serving *ret,
                                        struct engine_error *err)
{
    struct content content = {NULL, 0, NULL};
    bool is_there;
    ENGINE_TRY(has_file(place, "model.json", &is_there, err));
    if (!is_there)
        return ENGINE_OK;
    ENGINE_TRY(read_file(place, "model.json", CONFIG_BYTES, &content, err));
    enum engine_code code = read_model_json(place, content.bytes, content.size, ret, err);
    free(content.owned);
    return code;
}

/* A layer's configuration given takes layer.json's place: what model.json says of serving still
 * holds, its own layer does not. */
static enum engine_code read_beside(const struct place *place, struct serving *ret,
                                    struct engine_error *err)
{
    json_t *config = ret->config;
    ret->config = NULL;
    enum engine_code code = read_model_file(place, ret, err);
    json_decref(ret->config);
    ret->config = config;
    return code;
}

/* model.json, then layer.json unless it held the configuration. */
static enum engine_code read_serving(const struct place *place, const char *config_json,
                                     struct serving *ret, struct engine_error *err)
{
    if (config_json == NULL)
        ENGINE_TRY(read_model_file(place, ret, err));
    else
        ENGINE_TRY(read_model_json(place, config_json, strlen(config_json), ret, err));
    if (config_json != NULL && ret->is_layer)
        ENGINE_TRY(read_beside(place, ret, err));
    if (ret->initialize && ret->weights[0] != '\0')
        return refuse("initialize", "left out where weights are given", err);
    if (ret->config != NULL)
        return ENGINE_OK;
    return read_document(place, "layer.json", &ret->config, err);
}

/* ---- the model ----------------------------------------------------------------------------- */

static enum engine_code open_model(struct engine *engine, const struct place *place,
                                   struct serving *serving, struct engine_model **ret,
                                   struct engine_error *err)
{
    struct engine_layer_config config;
    struct engine_safetensors *file = NULL;
    struct content bytes = {NULL, 0, NULL};
    struct engine_model_source source = {.config = &config,
                                         .prefix = json_string_value(serving->prefix),
                                         .initialize = serving->initialize,
                                         .seed = serving->seed,
                                         .precision = serving->settings.precision};
    ENGINE_TRY(api_layer_config_read_document(serving->config, json_string_value(serving->layer),
                                              &config, err));
    enum engine_code code = ENGINE_OK;
    if (!serving->initialize) {
        code = open_weights(place, serving, &bytes, &file, err);
        if (code == ENGINE_OK) {
            source.weights = engine_safetensors_tensors(file);
            source.weights_count = engine_safetensors_count(file);
        }
    }
    if (code == ENGINE_OK)
        code = engine_model_create(engine, &source, ret, err);
    engine_safetensors_destroy(file);
    free(bytes.owned);
    return code;
}

enum engine_code api_model_files_open(struct engine *engine, const char *directory,
                                      const struct api_model_file *files, size_t files_count,
                                      const char *config_json, struct engine_model **ret_model,
                                      struct api_model_settings *ret_settings,
                                      struct engine_error *err)
{
    const struct place place = {directory, files, files_count};
    struct serving serving = {.config = NULL};
    enum engine_code code = read_serving(&place, config_json, &serving, err);
    if (code == ENGINE_OK)
        code = open_model(engine, &place, &serving, ret_model, err);
    if (code == ENGINE_OK)
        *ret_settings = serving.settings;
    json_decref(serving.config);
    json_decref(serving.layer);
    json_decref(serving.prefix);
    return code;
}
