/* wide.c - see wide.h. */
#include "engine/wide.h"

#include <string.h>
#include <time.h>

#include "engine/reference.h"

static const struct engine_tensor *returned(const struct engine_plan *plan,
                                            enum engine_output output)
{
    return &plan->facts.outputs[output];
}

static bool scores_are_whole(const struct engine_plan *plan)
{
    return plan->call.wanted[ENGINE_ATTENTION_SCORES] && plan->call.heads.count == 0 &&
           plan->call.query_rows.count == 0 && plan->call.top_k == 0 &&
           returned(plan, ENGINE_ATTENTION_SCORES)->dtype == ENGINE_F64;
}

static bool output_is_whole(const struct engine_plan *plan)
{
    return returned(plan, ENGINE_ATTENTION_OUTPUT)->dtype == ENGINE_F64;
}

/* The geometry has bounded both counts. */
void engine_wide_workspace(const struct engine_plan *plan, size_t *ret_output, size_t *ret_scores)
{
    *ret_output = *ret_scores = 0;
    if (plan->wants_output && !output_is_whole(plan))
        (void)engine_tensor_count(&plan->geometry.output, ret_output);
    if (plan->wants_scores && !scores_are_whole(plan))
        (void)engine_tensor_count(&plan->geometry.scores, ret_scores);
}

double engine_wide_flops(const struct engine_plan *plan)
{
    const struct engine_geometry *g = &plan->geometry;
    double queries = (double)g->outer * (double)g->queries,
           keys = (double)g->outer * (double)g->keys;
    double fresh = (double)(g->heads_new * g->key_dim), all = (double)(g->heads * g->value_dim);
    double flops = fresh * (queries * (double)g->query_width + keys * (double)g->key_width +
                            queries * (double)g->keys);
    if (plan->wants_output)
        flops += all * (keys * (double)g->value_width + queries * (double)g->output_width +
                        queries * (double)g->keys);
    return 2 * flops;
}

/* ---- returning ------------------------------------------------------------------------------ */

static void write_values(const struct engine_tensor *to, int64_t at, const double *from,
                         int64_t count)
{
    size_t element = engine_tensor_element_bytes(to->dtype);
    char *place = (char *)to->data + (size_t)at * element;
    if (to->dtype == ENGINE_F64)
        memcpy(place, from, (size_t)count * sizeof *from);
    for (int64_t i = 0; i < count && to->dtype != ENGINE_F64; i++) {
        float value = (float)from[i];
        engine_tensor_from_f32(to->dtype, &value, place + (size_t)i * element, 1);
    }
}

/* The order of the best keys: greater values first, then smaller indices; NaN ranks last. */
static bool ranks_before(const double *row, int64_t a, int64_t b)
{
    bool a_is_nan = row[a] != row[a], b_is_nan = row[b] != row[b];
    if (a_is_nan != b_is_nan)
        return b_is_nan;
    if (!a_is_nan && row[a] != row[b])
        return row[a] > row[b];
    return a < b;
}

static void write_best(const struct engine_plan *plan, int64_t to, const double *row)
{
    int64_t k = plan->score_keys, last = -1;
    for (int64_t i = 0; i < k; i++) {
        int64_t best = -1;
        for (int64_t j = 0; j < plan->geometry.keys; j++)
            if ((last < 0 || ranks_before(row, last, j)) &&
                (best < 0 || ranks_before(row, j, best)))
                best = j;
        last = best;
        if (plan->call.wanted[ENGINE_ATTENTION_SCORES])
            write_values(returned(plan, ENGINE_ATTENTION_SCORES), to * k + i, &row[best], 1);
        if (plan->call.wanted[ENGINE_ATTENTION_SCORES_INDICES])
            ((int32_t *)returned(plan, ENGINE_ATTENTION_SCORES_INDICES)->data)[to * k + i] =
                (int32_t)best;
    }
}

static void return_scores(const struct engine_plan *plan, int64_t outer, const double *scores)
{
    const struct engine_geometry *g = &plan->geometry;
    const struct engine_selection *heads = &plan->call.heads, *rows = &plan->call.query_rows;
    for (int64_t i = 0; i < plan->score_heads * plan->score_rows; i++) {
        int64_t head = i / plan->score_rows, query = i % plan->score_rows;
        head = heads->count > 0 ? heads->indices[head] : head;
        query = rows->count > 0 ? rows->indices[query] : query;
        const double *row = scores + ((outer * g->heads + head) * g->queries + query) * g->keys;
        int64_t to = outer * plan->score_heads * plan->score_rows + i;
        if (plan->call.top_k > 0)
            write_best(plan, to, row);
        else
            write_values(returned(plan, ENGINE_ATTENTION_SCORES), to * g->keys, row, g->keys);
    }
}

static void return_output(const struct engine_plan *plan, int64_t outer, const double *output)
{
    const struct engine_geometry *g = &plan->geometry;
    for (int64_t i = 0; i < g->queries; i++) {
        int64_t at = engine_geometry_row(&g->query_rows, outer * g->queries + i) * g->output_width;
        write_values(returned(plan, ENGINE_ATTENTION_OUTPUT), at, output + at, g->output_width);
    }
}

/* ---- running ------------------------------------------------------------------------------ */

static bool deadline_passed(const struct engine_plan *plan)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    return plan->job.options.deadline_ns != 0 && now > plan->job.options.deadline_ns;
}

static bool must_stop(void *argument)
{
    const struct engine_plan *plan = argument;
    return atomic_load(&plan->job.cancelled) || deadline_passed(plan);
}

enum engine_code engine_wide_unit(struct engine_plan *plan, int64_t outer, struct engine_error *err)
{
    double *output = returned(plan, ENGINE_ATTENTION_OUTPUT)->data;
    double *scores = returned(plan, ENGINE_ATTENTION_SCORES)->data;
    bool output_in_place = output_is_whole(plan), scores_in_place = scores_are_whole(plan);
    if (!output_in_place)
        output = (double *)(void *)engine_plan_at(plan, plan->wide_output_offset);
    if (!scores_in_place)
        scores = (double *)(void *)engine_plan_at(plan, plan->wide_scores_offset);
    const struct engine_reference reference = {.config = &plan->model->config,
                                               .weights = &plan->model->weights,
                                               .geometry = &plan->geometry,
                                               .call = &plan->call,
                                               .mask = plan->has_mask ? &plan->mask : NULL,
                                               .output = plan->wants_output ? output : NULL,
                                               .scores = plan->wants_scores ? scores : NULL};
    struct engine_error failure = {0};
    enum engine_code code = engine_reference_run(&reference, outer, 1, must_stop, plan, &failure);
    if (code == ENGINE_CANCELLED && !atomic_load(&plan->job.cancelled))
        return engine_error_set(err, ENGINE_DEADLINE, "the call's deadline passed");
    if (code != ENGINE_OK)
        return engine_error_set(err, code, "%s", failure.message);
    if (plan->wants_output && !output_in_place)
        return_output(plan, outer, output);
    if (plan->wants_scores && !scores_in_place)
        return_scores(plan, outer, scores);
    return ENGINE_OK;
}
