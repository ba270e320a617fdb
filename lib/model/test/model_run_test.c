// Training over several ranks: it learns what one rank learns, whatever the layout and schedule.
#include "model_fixture.h"

#include <math.h>

#include "fathom/span.h"

static void every_layout_learns_what_one_rank_learns(void **state)
{
    static fm_model_step_result one[STEPS], many[STEPS];
    int64_t loads[4][6];
    (void)state;
    fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM);
    model_fixture_train(alone, STEPS, one);
    assert_true(one[STEPS - 1].loss < one[0].loss - 0.3);
    for (int layer = 1; layer < 4; layer++)
        memcpy(loads[layer], fm_model_trainer_loads(alone, layer), sizeof loads[layer]);
    fm_model_trainer_close(alone);
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *trainer = model_fixture_open_layout(i);
        model_fixture_train(trainer, STEPS, many);
        for (int step = 0; step < STEPS; step++) {
            model_fixture_near(i, "the loss", many[step].loss, one[step].loss);
            model_fixture_near(i, "the predictors' loss", many[step].predict_loss, one[step].predict_loss);
            model_fixture_near(i, "the balance loss", many[step].balance_loss, one[step].balance_loss);
            model_fixture_near(i, "the gradient's norm", many[step].gradient_norm, one[step].gradient_norm);
        }
        for (int layer = 1; layer < 4; layer++)
            assert_memory_equal(fm_model_trainer_loads(trainer, layer), loads[layer], sizeof loads[layer]);
        fm_model_trainer_close(trainer);
    }
}

static void a_layout_gives_the_same_bits_again(void **state)
{
    static fm_model_step_result first[STEPS], second[STEPS];
    (void)state;
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *one = model_fixture_open_layout(i), *two = model_fixture_open_layout(i);
        model_fixture_train(one, 4, first);
        model_fixture_train(two, 4, second);
        assert_memory_equal(first, second, 4 * sizeof *first);
        fm_model_trainer_close(one);
        fm_model_trainer_close(two);
    }
}

// Fewer sequences than ranks, numbers that do not divide, lengths that change: growing is joining anew.
static void batches_may_have_any_shape(void **state)
{
    static const int shapes[][2] = {{1, 5}, {5, 12}, {8, 2}};
    int32_t ids[SEQUENCES * WIDTH];
    (void)state;
    for (int i = 0; i < LAYOUTS; i++) {
        fm_trainer *alone = model_fixture_open(1, 1, FM_PIPE_CUSTOM), *trainer = model_fixture_open_layout(i);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            fm_model_step_result one, many;
            double loss, wanted;
            model_fixture_ids((int64_t)s, ids);
            assert_ok(fm_model_trainer_step(alone, ids, shapes[s][0], shapes[s][1], &one));
            assert_ok(fm_model_trainer_step(trainer, ids, shapes[s][0], shapes[s][1], &many));
            model_fixture_near(i, "the loss", many.loss, one.loss);
            assert_ok(fm_model_trainer_evaluate(alone, ids, 1, LENGTH, &wanted));
            assert_ok(fm_model_trainer_evaluate(trainer, ids, 1, LENGTH, &loss));
            model_fixture_near(i, "the loss of one sequence", loss, wanted);
        }
        fm_model_trainer_close(alone);
        fm_model_trainer_close(trainer);
    }
}

// Rows travel as they are multiplied, so that a forward rounds alike in every layout. Gradients do not: micro-batches of
// several ranks meet in one product of an expert, blocks of 128 rows are cut elsewhere, and a choice of experts may flip.
static void narrow_products_learn_alike(void **state)
{
    static const fm_dtype dtypes[] = {FM_DTYPE_BF16, FM_DTYPE_F8_E4M3};
    static const double allowed[] = {0.02, 0.08};
    static fm_model_step_result one[STEPS], many[STEPS];
    fm_model_config config = model_fixture_config();
    (void)state;
    for (int i = 0; i < 2; i++) {
        fm_model_training training = model_fixture_training(1, 1, FM_PIPE_CUSTOM);
        fm_trainer *alone, *trainer;
        training.dtype = dtypes[i];
        assert_ok(fm_model_trainer_open(&config, &training, &alone));
        model_fixture_train(alone, STEPS, one);
        fm_model_trainer_close(alone);
        for (int layout = 0; layout < LAYOUTS; layout++) {
            training.pipe_ranks = model_fixture_layouts[layout].pipe;
            training.expert_ranks = model_fixture_layouts[layout].experts;
            training.schedule = model_fixture_layouts[layout].schedule;
            assert_ok(fm_model_trainer_open(&config, &training, &trainer));
            model_fixture_train(trainer, STEPS, many);
            assert_true(fm_model_trainer_products(trainer, dtypes[i]) > 1000);
            assert_true(fabs(many[0].loss - one[0].loss) < 2e-6 * one[0].loss); // before anything is learnt
            for (int step = 0; step < STEPS; step++)
                if (!(fabs(many[step].loss - one[step].loss) < allowed[i]))
                    fail_msg("layout %d, step %d: the loss is %g, with one rank %g", layout, step,
                             many[step].loss, one[step].loss);
            fm_model_trainer_close(trainer);
        }
    }
}

/** Spans of a run, in the order of their ends on each thread. */
struct spans {
    struct span {
        const char *name;
        int thread;
        uint64_t begin, end;
    } all[8192];
    int count;
};

static fm_status keep_span(void *context, const fm_span_event *event)
{
    struct spans *spans = context;
    if (event->site->kind == FM_SPAN_KIND_SPAN && spans->count < 8192)
        spans->all[spans->count++] =
            (struct span){event->site->name, event->thread, event->begin_ns, event->end_ns};
    return FM_OK;
}

// While a micro-batch's rows travel, another's step is taken: within an overlapped pair the steps of both alternate for as
// long as both have any.
static void overlapped_pairs_take_turns(void **state)
{
    static struct spans spans;
    static fm_model_step_result results[STEPS];
    int pairs = 0;
    (void)state;
    fm_trainer *trainer = model_fixture_open(2, 2, FM_PIPE_DUALPIPEV);
    assert_ok(fm_base_span_enable(0));
    model_fixture_train(trainer, 1, results);
    fm_base_span_disable();
    assert_ok(fm_base_span_drain(keep_span, &spans));
    fm_model_trainer_close(trainer);
    for (int i = 0; i < spans.count; i++) {
        const struct span *pair = &spans.all[i];
        int forwards = 0, backwards = 0, turns = 0;
        char last = 0;
        if (strcmp(pair->name, "FB") != 0)
            continue;
        for (int j = 0; j < i; j++) {
            const struct span *inner = &spans.all[j];
            int is_forward = strcmp(inner->name, "forward step") == 0;
            if (inner->thread != pair->thread || inner->begin < pair->begin || inner->end > pair->end ||
                !(is_forward || strcmp(inner->name, "backward step") == 0))
                continue;
            forwards += is_forward;
            backwards += !is_forward;
            turns += last && last != (is_forward ? 'f' : 'b');
            last = is_forward ? 'f' : 'b';
        }
        int fewer = forwards < backwards ? forwards : backwards;
        assert_true(fewer > 0 && turns >= 2 * fewer - 1);
        pairs++;
    }
    assert_true(pairs >= 8);
}

static void layouts_that_cannot_be_are_named(void **state)
{
    fm_model_config config = model_fixture_config();
    fm_trainer *trainer;
    fm_model_training training = model_fixture_training(1, 4, FM_PIPE_1F1B);
    (void)state;
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "6 experts on 4 ranks");
    training = model_fixture_training(3, 1, FM_PIPE_DUALPIPEV);
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "has 6 stages");
    training = model_fixture_training(3, 1, FM_PIPE_DUALPIPE);
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "ranks");
    training = model_fixture_training(-1, 1, FM_PIPE_1F1B);
    assert_fails(fm_model_trainer_open(&config, &training, &trainer), FM_ERR_ARG, "-1 pipeline ranks");
    trainer = model_fixture_open(2, 1, FM_PIPE_1F1B);
    fm_model_session *session;
    assert_fails(fm_model_session_open(fm_model_trainer_model(trainer), 0, &session), FM_ERR_STATE,
                 "one rank's part");
    fm_model_trainer_close(trainer);
}

static fm_status open_many(void *context)
{
    fm_model_config config = model_fixture_config();
    fm_model_training training = model_fixture_training(2, 2, FM_PIPE_DUALPIPE);
    fm_trainer *trainer;
    (void)context;
    FM_TRY(fm_model_trainer_open(&config, &training, &trainer));
    fm_model_trainer_close(trainer);
    return FM_OK;
}

static void opening_survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(open_many, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_learns_what_one_rank_learns),
        cmocka_unit_test(a_layout_gives_the_same_bits_again),
        cmocka_unit_test(batches_may_have_any_shape),
        cmocka_unit_test(narrow_products_learn_alike),
        cmocka_unit_test(overlapped_pairs_take_turns),
        cmocka_unit_test(layouts_that_cannot_be_are_named),
        cmocka_unit_test(opening_survives_without_memory),
    };
    return fm_test_run("model_run", tests);
}
