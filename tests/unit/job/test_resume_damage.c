/* SPDX-License-Identifier: Apache-2.0
 * What a resumed run believes: damaged shards, changed inputs and journals
 * that no run of the job has written. */
#include <inttypes.h>

#include "hash.h"
#include "job_files.h"

#define TIED QMOE_SOURCE_DIR "/tests/golden/tied"

enum { N_EXPERTS = 16, N_PER_BLOCK = 8 };

static char output[1024], partial[1040];
static job_files whole, stopped;

static const qmoe_compress_options plain = {
    .method = "rtn", .format = "ternary-dict", .group_size = 1};

static job_run resumed(const char *source)
{
    job_remove(output); /* of a test that failed */
    job_run run = {.source = source, .output = output, .options = plain};
    run.options.resume = true;
    return run;
}

/* Stopped in the second block, so that there is one finished shard pair. */
static int set_up(void **state)
{
    (void)state;
    snprintf(output, sizeof output, "%s", scratch_path("damage-out"));
    snprintf(partial, sizeof partial, "%s.partial", output);
    job_remove(output);
    job_remove(partial);
    job_run run = {.source = TIED, .output = output, .options = plain};
    assert_int_equal(job_go(&run), QMOE_OK);
    whole = job_files_load(output);
    job_remove(output);
    run.stop_after = N_PER_BLOCK + 4;
    assert_int_equal(job_go(&run), QMOE_E_CANCELLED);
    stopped = job_files_load(partial);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    job_remove(output);
    job_remove(partial);
    job_files_free(&whole);
    job_files_free(&stopped);
    return 0;
}

static void must_be_whole(void)
{
    job_files now = job_files_load(output);
    assert_int_equal(now.n, whole.n);
    for (size_t i = 0; i < now.n; i++) {
        const job_file *a = &now.items[i], *b = &whole.items[i];
        assert_string_equal(a->name, b->name);
        if (a->n_bytes != b->n_bytes ||
            memcmp(a->data, b->data, a->n_bytes) != 0)
            fail_msg("%s differs", a->name);
    }
    job_files_free(&now);
    job_remove(output);
}

/* ---- damaged shards ---- */

/* Where the first expert of a shard begins, from the finished one. */
static size_t expert_begin(const char *name)
{
    enum { OFFSETS_BYTES = 8 * (N_PER_BLOCK + 1) };
    uint64_t n = 0;
    const job_file *file = job_files_find(&whole, name);
    memcpy(&n, file->data, sizeof n);
    return (size_t)n + sizeof n + OFFSETS_BYTES;
}

static void test_nothing_damaged(void **state)
{
    (void)state;
    job_run run = resumed(TIED);
    job_files_store(&stopped, partial);
    assert_int_equal(job_go(&run), QMOE_OK);
    assert_int_equal(run.report.n_experts_resumed, N_PER_BLOCK + 3);
    assert_int_equal(run.n_redone, 0);
    must_be_whole();
}

/* A byte of the first expert of each shard: that and what follows is done
 * again. */
static void test_flipped_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        uint64_t n_kept;
    } cases[] = {
        {"model-00002-of-00005.safetensors", 0},
        {"model-00003-of-00005.safetensors", 0},
        {"model-00004-of-00005.safetensors", N_PER_BLOCK},
        {"model-00005-of-00005.safetensors", N_PER_BLOCK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_run run = resumed(TIED);
        job_files files = job_files_copy(&stopped);
        job_file *file = job_files_find(&files, cases[i].file);
        file->data[expert_begin(cases[i].file)] ^= 0x10;
        job_files_store(&files, partial);
        job_files_free(&files);
        if (job_go(&run) != QMOE_OK)
            fail_msg("%s", run.error);
        assert_int_equal(run.n_redone, 1);
        assert_non_null(strstr(run.message, cases[i].file));
        assert_int_equal(run.report.n_experts_resumed, cases[i].n_kept);
        must_be_whole();
    }
}

/* Many at once, anywhere in the shards. */
static void test_64_flipped_bytes(void **state)
{
    (void)state;
    job_run run = resumed(TIED);
    job_files files = job_files_copy(&stopped);
    uint32_t random = 1;
    for (int i = 0; i < 64; i++) {
        char name[64];
        snprintf(
            name, sizeof name, "model-%05d-of-00005.safetensors", 2 + i % 4);
        job_file *file = job_files_find(&files, name);
        random = random * 1664525 + 1013904223;
        file->data[random % file->n_bytes] ^= 1 << i % 8;
    }
    job_files_store(&files, partial);
    job_files_free(&files);
    assert_int_equal(job_go(&run), QMOE_OK);
    assert_int_equal(run.n_redone, 1);
    must_be_whole();
}

static void test_cut_and_missing_shards(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        job_run run = resumed(TIED);
        job_files files = job_files_copy(&stopped);
        job_file *file = &files.items[files.n - 1 - i % 4];
        file->n_bytes = i < 4 ? file->n_bytes / 2 : 0;
        job_files_store(&files, partial);
        if (i >= 4) {
            char path[1200];
            snprintf(path, sizeof path, "%s/%s", partial, file->name);
            assert_int_equal(unlink(path), 0);
        }
        job_files_free(&files);
        if (job_go(&run) != QMOE_OK)
            fail_msg("%s", run.error);
        assert_int_equal(run.n_redone, 1);
        must_be_whole();
    }
}

/* ---- changed inputs ---- */

static const char *store_source(
    const char *config_from, const char *config_to, size_t flipped_weight)
{
    job_files files = job_files_load(TIED);
    job_file *config = job_files_find(&files, "config.json");
    job_file *weights = job_files_find(&files, "model.safetensors");
    if (config_from != NULL) {
        char *at = strstr((char *)config->data, config_from);
        assert_non_null(at);
        assert_int_equal(strlen(config_from), strlen(config_to));
        memcpy(at, config_to, strlen(config_to));
    }
    if (flipped_weight != 0)
        weights->data[flipped_weight] ^= 1;
    const char *path = scratch_path("damage-source");
    job_files_store(&files, path);
    job_files_free(&files);
    return path;
}

static void must_refuse(job_run run, const char *part)
{
    job_files_store(&stopped, partial);
    job_go(&run);
    assert_error(run.status, QMOE_E_INVALID, run.error, "/journal: ");
    assert_error(run.status, QMOE_E_INVALID, run.error, part);
}

static void test_changed_inputs(void **state)
{
    (void)state;
    job_run run = resumed(store_source(NULL, NULL, 0));
    job_files_store(&stopped, partial);
    assert_int_equal(job_go(&run), QMOE_OK);
    must_be_whole();
    must_refuse(resumed(store_source("1e-06", "1e-05", 0)), "config.json is");
    /* Any weight: of the first tensor, of the last, and in between. */
    static const size_t weights[] = {40001, 70001, 111679};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        must_refuse(resumed(store_source(NULL, NULL, weights[i])),
            "model.safetensors is");
    run = resumed(store_source(NULL, NULL, 0));
    scratch_text("damage-source/generation_config.json", "{}");
    must_refuse(run, "generation_config.json is");
    run = resumed(TIED);
    run.options.fit_levels = true;
    must_refuse(run, "levels is 'fit', but was 'minmax'");
    run = resumed(TIED);
    run.options.format = "q2";
    must_refuse(run, "format is 'q2', but was 'ternary-dict'");
    job_remove(scratch_path("damage-source"));
}

/* ---- journals ---- */

/* The stopped run's journal without its last `n_cut` lines, then `lines`,
 * with the checksums that belong there (written here once more, on purpose). */
static void store_journal(int n_cut, const char *lines)
{
    job_files files = job_files_copy(&stopped);
    job_file *journal = job_files_find(&files, "journal");
    char *text = (char *)journal->data, *end = text + journal->n_bytes;
    for (int i = 0; i < n_cut; i++)
        for (end--; end[-1] != '\n';)
            end--;
    char all[1 << 16];
    size_t n = (size_t)(end - text);
    memcpy(all, text, n);
    uint64_t chain = strtoull(end - 17, NULL, 16);
    for (const char *line = lines; *line != '\0';) {
        const size_t length = strcspn(line, "\n");
        const uint64_t pair[2] = {chain, qmi_hash64(line, length)};
        chain = qmi_hash64(pair, sizeof pair);
        n += (size_t)snprintf(all + n, sizeof all - n, "%.*s #%016" PRIx64 "\n",
            (int)length, line, chain);
        line += length + 1;
    }
    free(journal->data);
    journal->data = (uint8_t *)strndup(all, n);
    journal->n_bytes = n;
    job_files_store(&files, partial);
    job_files_free(&files);
}

#define QUALITY " 0x1p+0 0x1p+0 0 0x1p+0 0x1p+0 0 0x0p+0 0 0"
#define MATRIX " 9 0123456789abcdef" QUALITY
#define EXPERT(block) "expert " block " 0 0" MATRIX MATRIX "\n"
#define TRIAL(block) "trial " block " 0 0x1p+0 0x1p+0 0 0x1p+0 0x1p+0\n"
#define FIVE EXPERT("1") EXPERT("1") EXPERT("1") EXPERT("1") EXPERT("1")

static void test_impossible_journals(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *text;
    } cases[] = {
        {FIVE EXPERT("1"), "/journal: its lines are not those"},
        {EXPERT("0"), "/journal: its lines are not those"},
        {EXPERT("2"), "/journal: its lines are not those"},
        {EXPERT("-1"), "/journal: its lines are not those"},
        {EXPERT("100000000000"), "/journal: its lines are not those"},
        {EXPERT("9223372036854775807"), "/journal: its lines are not those"},
        {TRIAL("0"), "/journal: its lines are not those"},
        {TRIAL("100000000000"), "/journal: its lines are not those"},
        /* Read otherwise than written. */
        {EXPERT("9223372036854775808"), "/journal: broken at byte"},
        {EXPERT("01"), "/journal: broken at byte"},
        {EXPERT(" 1"), "/journal: broken at byte"},
        {"expert 1 0 0 -1 0 0 0 0 0 0" MATRIX "\n", "/journal: broken at"},
        /* Of experts with another number of matrices. */
        {"expert 1 0 0" MATRIX "\n", "/journal: its lines are not those"},
        {"expert 1 0 0" MATRIX MATRIX MATRIX "\n",
            "/journal: its lines are not those"},
        {"expert 1 0 0" MATRIX MATRIX MATRIX MATRIX "\n",
            "/journal: broken at byte"},
        {"nonsense\n", "/journal: broken at byte"},
        {"\n", "/journal: broken at byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_run run = resumed(TIED);
        store_journal(0, cases[i].lines);
        job_go(&run);
        assert_error(run.status, QMOE_E_FORMAT, run.error, cases[i].text);
    }
}

/* Lengths that no file has, and experts that are not there: done again. */
static void test_unbelievable_experts(void **state)
{
    (void)state;
    static const char *const lines[] = {
        FIVE,
        "expert 1 0 0 18446744073709551615 0123456789abcdef" QUALITY MATRIX
        "\n",
        "expert 1 0 0 4611686018427387904 0123456789abcdef" QUALITY MATRIX "\n",
        "expert 1 0 0" MATRIX " 9223372036854775807 0123456789abcdef" QUALITY
        "\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        job_run run = resumed(TIED);
        store_journal(i % 2 == 0 ? 0 : 3, lines[i]);
        if (job_go(&run) != QMOE_OK)
            fail_msg("%s", run.error);
        assert_int_equal(run.n_redone, 1);
        assert_int_equal(
            run.report.n_experts_resumed, N_PER_BLOCK + (i % 2 == 0 ? 3 : 0));
        must_be_whole();
    }
}

/* Torn anywhere: what is complete counts. */
static void test_torn_journal(void **state)
{
    (void)state;
    const job_file *journal = job_files_find(&stopped, "journal");
    for (size_t n = 0; n < journal->n_bytes; n += 61) {
        job_run run = resumed(TIED);
        job_files files = job_files_copy(&stopped);
        job_files_find(&files, "journal")->n_bytes = n;
        job_files_store(&files, partial);
        job_files_free(&files);
        if (job_go(&run) != QMOE_OK)
            fail_msg("cut at %zu: %s", n, run.error);
        assert_int_equal(run.n_redone, 0);
        must_be_whole();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_damaged),
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_64_flipped_bytes),
        cmocka_unit_test(test_cut_and_missing_shards),
        cmocka_unit_test(test_changed_inputs),
        cmocka_unit_test(test_impossible_journals),
        cmocka_unit_test(test_unbelievable_experts),
        cmocka_unit_test(test_torn_journal),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
