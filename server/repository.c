/* repository.c - see repository.h. */
#include "server/repository.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/routes.h"

enum { PATH_BYTES = 4096, MAX_VERSIONS = 64 };

/* The versions of a name, ascending; replaced as a whole. */
struct version_set {
    struct server_model *models[MAX_VERSIONS];
    size_t count;
};

struct entry {
    char name[API_MAX_NAME_BYTES + 1];
    char *directory; /* NULL: only ever uploaded */
    struct version_set set;
    bool unloaded;    /* on purpose */
    char reason[512]; /* why there is no version; "": there is one */
    char detail[512]; /* of the reason at the start, for the operator alone */
    struct entry *next;
};

struct server_repository {
    struct engine *engine;
    struct server_log *log;
    pthread_mutex_t control, lock;
    struct entry *first;
    atomic_bool ready;
};

/* ---- version sets ----------------------------------------------------------------------- */

static void release_set(struct version_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        server_model_release(set->models[i]);
    set->count = 0;
}

/* Versions are numbers without leading zeros: longer is larger. */
static int compare_versions(const char *a, const char *b)
{
    size_t length_a = strlen(a), length_b = strlen(b);
    return length_a != length_b ? (length_a < length_b ? -1 : 1) : strcmp(a, b);
}

static enum engine_code add_version(struct server_repository *repository, struct version_set *set,
                                    const struct server_model_source *source,
                                    struct engine_error *err)
{
    struct engine_error cause = {0};
    struct server_model *model = NULL;
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->models[i]->version, source->version) == 0)
            return ENGINE_OK; /* the numbered directory goes before the files beside it */
    if (set->count == MAX_VERSIONS)
        return engine_error_set(err, ENGINE_TOO_LARGE, "model %s has more than %d versions",
                                source->name, MAX_VERSIONS);
    enum engine_code code = server_model_open(repository->engine, source, &model, &cause);
    if (code != ENGINE_OK) {
        engine_error_set_detail(err, "%s", cause.detail);
        return engine_error_set(err, code, "model %.64s version %s: %s", source->name,
                                source->version, cause.message);
    }
    size_t at = set->count++;
    for (; at > 0 && compare_versions(set->models[at - 1]->version, model->version) > 0; at--)
        set->models[at] = set->models[at - 1];
    set->models[at] = model;
    return ENGINE_OK;
}

/* ---- from a directory ------------------------------------------------------------------- */

static bool join(char *path, const char *directory, const char *name)
{
    int length = snprintf(path, PATH_BYTES, "%s/%s", directory, name);
    return length > 0 && length < PATH_BYTES;
}

/* Calls each(argument, path, name) for every sub-directory whose name is_wanted. */
struct walk {
    bool (*is_wanted)(const char *name);
    enum engine_code (*each)(void *argument, const char *path, const char *name,
                             struct engine_error *err);
    void *argument;
};

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum engine_code walk_directory(const struct walk *walk, const char *directory,
                                       struct engine_error *err)
{
    struct dirent **names = NULL;
    int count = scandir(directory, &names, NULL, by_name);
    if (count < 0) {
        int error = errno;
        bool is_short = error == ENOMEM || error == EMFILE || error == ENFILE;
        engine_error_set_detail(err, "%.300s: %s (errno %d); attnd is user %u, group %u", directory,
                                strerror(error), error, geteuid(), getegid());
        return engine_error_set(err, is_short ? ENGINE_OUT_OF_MEMORY : ENGINE_INVALID_ARGUMENT,
                                is_short ? "no memory or descriptor to list a directory of models"
                                         : "a directory of models is missing or may not be read");
    }
    enum engine_code code = ENGINE_OK;
    for (int i = 0; i < count; i++) {
        char path[PATH_BYTES];
        struct stat status;
        if (code == ENGINE_OK && walk->is_wanted(names[i]->d_name) &&
            join(path, directory, names[i]->d_name) && stat(path, &status) == 0 &&
            S_ISDIR(status.st_mode))
            code = walk->each(walk->argument, path, names[i]->d_name, err);
        free(names[i]);
    }
    free(names);
    return code;
}

struct opening {
    struct server_repository *repository;
    struct version_set *set;
    const char *name;
    const char *config_json;
};

static enum engine_code open_version(void *argument, const char *path, const char *version,
                                     struct engine_error *err)
{
    struct opening *opening = argument;
    struct server_model_source source = {.name = opening->name,
                                         .version = version,
                                         .directory = path,
                                         .config_json = opening->config_json};
    return add_version(opening->repository, opening->set, &source, err);
}

static enum engine_code open_directory(struct opening *opening, const char *directory,
                                       struct engine_error *err)
{
    struct walk walk = {server_routes_is_version, open_version, opening};
    bool is_model = true;
    ENGINE_TRY(walk_directory(&walk, directory, err));
    if (opening->set->count > 0)
        ENGINE_TRY(api_model_files_is_model(directory, &is_model, err));
    return is_model ? open_version(opening, directory, "1", err) : ENGINE_OK;
}

/* ---- from memory ------------------------------------------------------------------------ */

/* "3/weights.safetensors" is a file of version 3; without a number it is one of version 1. */
static const char *file_version(const struct api_model_file *file, char version[20],
                                const char **ret_name)
{
    const char *slash = strchr(file->name, '/');
    size_t length = slash != NULL ? (size_t)(slash - file->name) : 0;
    *ret_name = file->name;
    snprintf(version, 20, "%.*s", length < 20 ? (int)length : 0, file->name);
    if (length == 0 || !server_routes_is_version(version))
        return strcpy(version, "1");
    *ret_name = slash + 1;
    return version;
}

static enum engine_code open_files(struct opening *opening, const struct api_load_request *request,
                                   struct engine_error *err)
{
    struct api_model_file own[API_MAX_UPLOAD_FILES];
    char version[20], other[20];
    const char *name;
    size_t files_count =
        request->files_count < API_MAX_UPLOAD_FILES ? request->files_count : API_MAX_UPLOAD_FILES;
    for (size_t i = 0; i < files_count; i++) {
        size_t count = 0;
        file_version(&request->files[i], version, &name);
        for (size_t j = 0; j < files_count; j++) {
            if (strcmp(file_version(&request->files[j], other, &name), version) != 0)
                continue;
            own[count] = request->files[j];
            own[count++].name = name;
        }
        struct server_model_source source = {.name = opening->name,
                                             .version = version,
                                             .files = own,
                                             .files_count = count,
                                             .config_json = request->config};
        ENGINE_TRY(add_version(opening->repository, opening->set, &source, err));
    }
    return ENGINE_OK;
}

/* ---- entries ---------------------------------------------------------------------------- */

static struct entry *find_entry(const struct server_repository *repository, const char *name)
{
    struct entry *entry = repository->first;
    while (entry != NULL && strcmp(entry->name, name) != 0)
        entry = entry->next;
    return entry;
}

/* Keeps the list sorted. The caller holds "lock", or is alone. */
static enum engine_code add_entry(struct server_repository *repository, const char *name,
                                  const char *directory, struct entry **ret,
                                  struct engine_error *err)
{
    struct entry **at = &repository->first;
    if (!server_routes_is_name(name))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "model name \"%.60s\" is malformed: letters, digits, '.', '-', "
                                "'_', spaces, not beginning with '.'",
                                name);
    while (*at != NULL && strcmp((*at)->name, name) < 0)
        at = &(*at)->next;
    if (*at != NULL && strcmp((*at)->name, name) == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "model %.60s is given twice", name);
    struct entry *entry = calloc(1, sizeof *entry);
    char *copy = directory != NULL ? strdup(directory) : NULL;
    if (entry == NULL || (directory != NULL && copy == NULL)) {
        free(entry);
        free(copy);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for model %.60s", name);
    }
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->directory = copy;
    entry->next = *at;
    *at = entry;
    if (ret != NULL)
        *ret = entry;
    return ENGINE_OK;
}

static void update_ready(struct server_repository *repository)
{
    bool loaded = false, failed = false;
    for (struct entry *entry = repository->first; entry != NULL; entry = entry->next) {
        loaded = loaded || entry->set.count > 0;
        failed = failed || (entry->set.count == 0 && !entry->unloaded);
    }
    atomic_store(&repository->ready, loaded && !failed);
}

/* Puts a set in place of the entry's; the old one is released outside the lock. */
static void replace(struct server_repository *repository, struct entry *entry,
                    struct version_set *set, bool unloaded, const char *reason)
{
    pthread_mutex_lock(&repository->lock);
    struct version_set old = entry->set;
    entry->set = *set;
    entry->unloaded = unloaded;
    snprintf(entry->reason, sizeof entry->reason, "%s", reason);
    update_ready(repository);
    pthread_mutex_unlock(&repository->lock);
    release_set(&old);
}

/* ---- opening ---------------------------------------------------------------------------- */

/* A directory is a model if it holds one, or numbered directories that do. */
static enum engine_code note_version(void *argument, const char *path, const char *version,
                                     struct engine_error *err)
{
    bool *is_model = argument;
    (void)version;
    return *is_model ? ENGINE_OK : api_model_files_is_model(path, is_model, err);
}

static enum engine_code find_model(const char *path, bool *ret, struct engine_error *err)
{
    struct walk walk = {server_routes_is_version, note_version, ret};
    ENGINE_TRY(api_model_files_is_model(path, ret, err));
    return *ret ? ENGINE_OK : walk_directory(&walk, path, err);
}

/* A directory that may not be read is none of ours: volumes hold a lost+found. Without memory or
 * descriptors nothing is known of it, and a start without it would lose a model. */
static enum engine_code find_readable(const char *path, bool *ret, struct engine_error *cause,
                                      struct engine_error *err)
{
    *ret = false;
    enum engine_code code = find_model(path, ret, cause);
    if (code == ENGINE_OK || code == ENGINE_INVALID_ARGUMENT)
        return ENGINE_OK;
    *err = *cause;
    return code;
}

/* A directory of --models, and what its sub-directories told so far. */
struct gathering {
    struct server_repository *repository;
    bool has_named, has_numbered; /* models */
    bool is_model;                /* itself */
};

static bool is_any(const char *name)
{
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static enum engine_code note_model(void *argument, const char *path, const char *name,
                                   struct engine_error *err)
{
    struct gathering *gathering = argument;
    struct engine_error cause = {0};
    bool is_model;
    ENGINE_TRY(find_readable(path, &is_model, &cause, err));
    if (is_model && server_routes_is_version(name))
        gathering->has_numbered = true;
    else if (is_model)
        gathering->has_named = true;
    return ENGINE_OK;
}

static enum engine_code add_or_skip(void *argument, const char *path, const char *name,
                                    struct engine_error *err)
{
    struct gathering *gathering = argument;
    struct engine_error cause = {0};
    bool is_model = false;
    if (gathering->is_model && server_routes_is_version(name))
        return ENGINE_OK;
    if (server_routes_is_name(name))
        ENGINE_TRY(find_readable(path, &is_model, &cause, err));
    else
        engine_error_set(&cause, ENGINE_INVALID_ARGUMENT,
                         "its name cannot be a model's: letters, digits, '.', '-', '_', spaces, "
                         "not beginning with '.'");
    if (is_model)
        return add_entry(gathering->repository, name, path, NULL, err);
    engine_error_set(&cause, ENGINE_NOT_FOUND,
                     "it holds neither layer.json nor model.json, nor has it numbered directories "
                     "that do"); /* unless another cause is known */
    if (!gathering->is_model)
        server_log_event(gathering->repository->log, SERVER_LOG_INFO, NULL, "skipped %.400s: %s",
                         path, cause.message);
    return ENGINE_OK;
}

/* The last component, or the target's if that is "." or "..". */
static enum engine_code add_itself(struct server_repository *repository, const char *directory,
                                   struct engine_error *err)
{
    char path[PATH_BYTES], name[PATH_BYTES];
    size_t end = strlen(directory);
    while (end > 0 && directory[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && directory[start - 1] != '/')
        start--;
    bool is_dots =
        end == start || (directory[start] == '.' && end - start <= 2 && directory[end - 1] == '.');
    if (is_dots && realpath(directory, path) != NULL)
        snprintf(name, sizeof name, "%s", strrchr(path, '/') + 1);
    else
        snprintf(name, sizeof name, "%.*s", (int)(end - start), directory + start);
    if (!server_routes_is_name(name))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "--models %.100s is a model itself, and its name cannot be a "
                                "model's; give it one: --model NAME=DIR",
                                directory);
    return add_entry(repository, name, directory, NULL, err);
}

/* Numbered directories are versions, unless they stand beside models with names. */
static enum engine_code add_directory(struct server_repository *repository, const char *directory,
                                      struct engine_error *err)
{
    struct gathering gathering = {.repository = repository};
    struct walk note = {is_any, note_model, &gathering};
    struct walk add = {is_any, add_or_skip, &gathering};
    ENGINE_TRY(walk_directory(&note, directory, err));
    ENGINE_TRY(api_model_files_is_model(directory, &gathering.is_model, err));
    if (gathering.has_numbered && !gathering.has_named)
        gathering.is_model = true;
    if (gathering.is_model)
        ENGINE_TRY(add_itself(repository, directory, err));
    return walk_directory(&add, directory, err);
}

static enum engine_code add_named(struct server_repository *repository, const char *pair,
                                  struct engine_error *err)
{
    const char *equals = strchr(pair, '=');
    char name[API_MAX_NAME_BYTES + 1];
    if (equals == NULL || (size_t)(equals - pair) >= sizeof name || equals[1] == '\0')
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "--model is \"%.60s\"; it must be NAME=DIR (--models DIR "
                                "serves a model under its own name)",
                                pair);
    snprintf(name, sizeof name, "%.*s", (int)(equals - pair), pair);
    return add_entry(repository, name, equals + 1, NULL, err);
}

static enum engine_code add_all(struct server_repository *repository,
                                const struct server_options *options, struct engine_error *err)
{
    for (size_t i = 0; i < options->models.count; i++)
        ENGINE_TRY(add_directory(repository, options->models.values[i], err));
    for (size_t i = 0; i < options->model.count; i++)
        ENGINE_TRY(add_named(repository, options->model.values[i], err));
    if (repository->first == NULL && !options->allow_control)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "there is no model to serve; give --models DIR or --model "
                                "NAME=DIR, or --allow-control to have one uploaded");
    return ENGINE_OK;
}

enum engine_code server_repository_open(struct engine *engine, struct server_log *log,
                                        const struct server_options *options,
                                        struct server_repository **ret, struct engine_error *err)
{
    struct server_repository *repository = calloc(1, sizeof *repository);
    if (repository == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the repository");
    repository->engine = engine;
    repository->log = log;
    pthread_mutex_init(&repository->control, NULL);
    pthread_mutex_init(&repository->lock, NULL);
    enum engine_code code = add_all(repository, options, err);
    if (code != ENGINE_OK) {
        server_repository_close(repository);
        return code;
    }
    for (struct entry *entry = repository->first; entry != NULL; entry = entry->next) {
        struct engine_error cause = {0};
        struct version_set set = {.count = 0};
        struct opening opening = {repository, &set, entry->name, NULL};
        if (open_directory(&opening, entry->directory, &cause) != ENGINE_OK) {
            if (options->action != SERVER_OPTIONS_CHECK) /* which prints it */
                server_log_failure(log, NULL, "", &cause);
            release_set(&set);
        }
        replace(repository, entry, &set, false, cause.message);
        snprintf(entry->detail, sizeof entry->detail, "%s", cause.detail);
    }
    update_ready(repository);
    malloc_trim(0); /* files and parsed weights; what stays is packed elsewhere */
    *ret = repository;
    return ENGINE_OK;
}

void server_repository_close(struct server_repository *repository)
{
    if (repository == NULL)
        return;
    for (struct entry *entry = repository->first, *next; entry != NULL; entry = next) {
        next = entry->next;
        release_set(&entry->set);
        free(entry->directory);
        free(entry);
    }
    pthread_mutex_destroy(&repository->control);
    pthread_mutex_destroy(&repository->lock);
    free(repository);
}

bool server_repository_ready(const struct server_repository *repository)
{
    return atomic_load_explicit(&repository->ready, memory_order_relaxed);
}

/* ---- finding ---------------------------------------------------------------------------- */

static enum engine_code pick(const struct entry *entry, const char *name, const char *version,
                             struct server_model **ret, struct engine_error *err)
{
    if (entry == NULL)
        return engine_error_set(err, ENGINE_NOT_FOUND,
                                "model \"%s\" is not known; GET /v2/models lists those that are",
                                name);
    if (entry->set.count == 0)
        return engine_error_set(err, ENGINE_UNAVAILABLE,
                                "model \"%s\" is not loaded; POST /v2/repository/index tells why",
                                name);
    size_t i = entry->set.count - 1;
    while (version[0] != '\0' && strcmp(entry->set.models[i]->version, version) != 0)
        if (i-- == 0)
            return engine_error_set(err, ENGINE_NOT_FOUND,
                                    "model \"%s\" has no version %s; GET /v2/models/%s lists "
                                    "those it has",
                                    name, version, name);
    server_model_retain(entry->set.models[i]);
    *ret = entry->set.models[i];
    return ENGINE_OK;
}

enum engine_code server_repository_find(struct server_repository *repository, const char *name,
                                        const char *version, struct server_model **ret,
                                        struct engine_error *err)
{
    pthread_mutex_lock(&repository->lock);
    enum engine_code code = pick(find_entry(repository, name), name, version, ret, err);
    pthread_mutex_unlock(&repository->lock);
    return code;
}

/* ---- listing ---------------------------------------------------------------------------- */

static size_t count_views(const struct server_repository *repository, const char *name)
{
    size_t count = 0;
    for (const struct entry *entry = repository->first; entry != NULL; entry = entry->next)
        if (name == NULL || strcmp(entry->name, name) == 0)
            count += entry->set.count > 0 ? entry->set.count : 1;
    return count;
}

static void add_view(struct server_model_list *list, const struct entry *entry,
                     struct server_model *model, size_t first)
{
    size_t i = list->count++;
    snprintf(list->texts[i], sizeof list->texts[i], "%s", entry->name);
    snprintf(list->reasons[i], sizeof list->reasons[i], "%s", entry->reason);
    struct api_model_view *view = &list->views[i];
    *view = (struct api_model_view){.name = list->texts[i],
                                    .version = "",
                                    .state = API_MODEL_UNAVAILABLE,
                                    .reason = list->reasons[i]};
    list->models[i] = model;
    if (model == NULL)
        return;
    server_model_retain(model);
    server_model_statistics(model, &list->statistics[i]);
    list->versions[i] = model->version;
    view->version = model->version;
    view->state = API_MODEL_READY;
    view->model = model->model;
    view->settings = &model->settings;
    view->statistics = &list->statistics[i];
    view->versions = &list->versions[first];
    view->versions_count = entry->set.count;
}

enum engine_code server_repository_list(struct server_repository *repository, const char *name,
                                        struct server_model_list *ret, struct engine_error *err)
{
    memset(ret, 0, sizeof *ret);
    pthread_mutex_lock(&repository->lock);
    size_t count = count_views(repository, name);
    ret->views = calloc(count + 1, sizeof *ret->views);
    ret->models = calloc(count + 1, sizeof(struct server_model *));
    ret->statistics = calloc(count + 1, sizeof *ret->statistics);
    ret->versions = calloc(count + 1, sizeof(char *));
    ret->texts = calloc(count + 1, sizeof *ret->texts);
    ret->reasons = calloc(count + 1, sizeof *ret->reasons);
    bool complete = ret->views != NULL && ret->models != NULL && ret->statistics != NULL &&
                    ret->versions != NULL && ret->texts != NULL && ret->reasons != NULL;
    for (struct entry *entry = repository->first; complete && entry != NULL; entry = entry->next) {
        size_t first = ret->count;
        if (name != NULL && strcmp(entry->name, name) != 0)
            continue;
        for (size_t i = 0; i < entry->set.count; i++)
            add_view(ret, entry, entry->set.models[i], first);
        if (entry->set.count == 0)
            add_view(ret, entry, NULL, first);
    }
    pthread_mutex_unlock(&repository->lock);
    if (complete)
        return ENGINE_OK;
    server_repository_list_reset(ret);
    return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a list of models");
}

void server_repository_list_reset(struct server_model_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        server_model_release(list->models[i]);
    free(list->views);
    free(list->models);
    free(list->statistics);
    free(list->versions);
    free(list->texts);
    free(list->reasons);
    memset(list, 0, sizeof *list);
}

static void print_refusal(const struct server_repository *repository,
                          const struct api_model_view *view, FILE *out)
{
    const struct entry *entry = find_entry(repository, view->name);
    bool has_detail = entry != NULL && entry->detail[0] != '\0';
    fprintf(out, "%s: not servable: %s%s%s%s\n", view->name, view->reason, has_detail ? " (" : "",
            has_detail ? entry->detail : "", has_detail ? ")" : "");
}

enum engine_code server_repository_print(struct server_repository *repository, FILE *out,
                                         struct engine_error *err)
{
    struct server_model_list list;
    bool all = true;
    ENGINE_TRY(server_repository_list(repository, NULL, &list, err));
    for (size_t i = 0; i < list.count; i++) {
        const struct api_model_view *view = &list.views[i];
        all = all && view->model != NULL;
        if (view->model != NULL)
            fprintf(out, "%s version %s: ready, %zu bytes of weights, precision %s\n", view->name,
                    view->version, engine_model_bytes(view->model),
                    engine_precision_name(engine_model_precision(view->model)));
        else
            print_refusal(repository, view, out);
    }
    server_repository_list_reset(&list);
    return all ? ENGINE_OK
               : engine_error_set(err, ENGINE_INVALID_ARGUMENT, "not all models can be served");
}

/* ---- loading and unloading -------------------------------------------------------------- */

/* The entry, made for an upload of a new name. Entries are never removed, so that a pointer to
 * one stays good without the lock. */
static enum engine_code entry_for(struct server_repository *repository, const char *name,
                                  bool upload, struct entry **ret, struct engine_error *err)
{
    enum engine_code code = ENGINE_OK;
    pthread_mutex_lock(&repository->lock);
    *ret = find_entry(repository, name);
    if (*ret == NULL && upload) {
        code = add_entry(repository, name, NULL, ret, err);
        if (code == ENGINE_OK)
            (*ret)->unloaded = true; /* until it is open: readiness is not touched */
    }
    pthread_mutex_unlock(&repository->lock);
    if (code == ENGINE_OK && *ret == NULL)
        code = engine_error_set(err, ENGINE_NOT_FOUND,
                                "model \"%s\" is not known; GET /v2/models lists those that are",
                                name);
    return code;
}

static enum engine_code load(struct server_repository *repository, struct entry *entry,
                             const struct api_load_request *request, struct engine_error *err)
{
    struct version_set set = {.count = 0};
    struct opening opening = {repository, &set, entry->name, request->config};
    enum engine_code code;
    if (request->files_count > 0)
        code = open_files(&opening, request, err);
    else if (entry->directory != NULL)
        code = open_directory(&opening, entry->directory, err);
    else
        code = engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "model \"%s\" was uploaded; to load it again, upload its files",
                                entry->name);
    if (code != ENGINE_OK) {
        release_set(&set);
        return code;
    }
    replace(repository, entry, &set, false, "");
    return ENGINE_OK;
}

enum engine_code server_repository_load(struct server_repository *repository, const char *name,
                                        const struct api_load_request *request,
                                        struct engine_error *err)
{
    struct entry *entry = NULL;
    pthread_mutex_lock(&repository->control);
    enum engine_code code = entry_for(repository, name, request->files_count > 0, &entry, err);
    if (code == ENGINE_OK)
        code = load(repository, entry, request, err);
    malloc_trim(0);
    pthread_mutex_unlock(&repository->control);
    return code;
}

enum engine_code server_repository_unload(struct server_repository *repository, const char *name,
                                          struct engine_error *err)
{
    struct entry *entry = NULL;
    struct version_set none = {.count = 0};
    pthread_mutex_lock(&repository->control);
    enum engine_code code = entry_for(repository, name, false, &entry, err);
    if (code == ENGINE_OK)
        replace(repository, entry, &none, true, "unloaded");
    malloc_trim(0);
    pthread_mutex_unlock(&repository->control);
    return code;
}
