/* SPDX-License-Identifier: Apache-2.0
 * A tamperer: runs are stopped, their journals and shards changed at random,
 * and resumed.  A success gives the bytes of an undisturbed run, whatever was
 * changed; anything else is one line that names a file of the working
 * directory, and leaves it there.
 *
 *   test_resume_tampered [ROUNDS [FIRST [EVERY]]]
 *
 * A round is the same each time; the line of a failure names it.  With EVERY,
 * each round whose number it divides is calibrated, on switch-mini, which takes
 * longer. */
#include <inttypes.h>

#include "hash.h"
#include "job_files.h"

#define GOLDEN QMOE_SOURCE_DIR "/tests/golden/"

enum { DEFAULT_ROUNDS = 64, N_STOPS = 3 };

/* ---- chance ---- */

static uint64_t random_state;

static uint64_t chance(uint64_t n)
{
    random_state = random_state * 6364136223846793005U + 1442695040888963407U;
    return (random_state >> 33) % n;
}

/* ---- jobs ---- */

typedef struct tampered_job {
    const char *source;
    bool calibrated;
    qmoe_compress_options options;
    int stops[N_STOPS]; /* steps of work */
    job_files whole, stopped[N_STOPS];
} tampered_job;

static tampered_job jobs[] = {
    {.source = GOLDEN "tied",
        .options = {.method = "rtn", .format = "ternary-dict"},
        .stops = {3, 9, 15}},
    /* Two sweeps: the first of trials, the second of experts. */
    {.source = GOLDEN "full-sparse",
        .options = {.method = "rtn", .bits = 2.6},
        .stops = {7, 24, 37}},
    {.source = QMOE_SOURCE_DIR "/models/switch-mini",
        .calibrated = true,
        .options = {.passes = 1},
        .stops = {6, 14, 30}},
};
enum { N_JOBS = sizeof jobs / sizeof *jobs, CALIBRATED = N_JOBS - 1 };

static char output[1024], partial[1040], text[1024];

static job_run run_of(const tampered_job *job)
{
    job_run run = {.source = job->source,
        .output = output,
        .text = job->calibrated ? text : NULL,
        .options = job->options};
    run.options.group_size = 1;
    return run;
}

static void prepare(tampered_job *job)
{
    job_run run = run_of(job);
    if (job_go(&run) != QMOE_OK)
        fail_msg("%s", run.error);
    job->whole = job_files_load(output);
    job_remove(output);
    for (int i = 0; i < N_STOPS; i++) {
        run.stop_after = job->stops[i];
        job_go(&run);
        assert_error(run.status, QMOE_E_CANCELLED, run.error, "cancelled");
        job->stopped[i] = job_files_load(partial);
        job_remove(partial);
    }
}

/* ---- the journal ---- */

enum { MAX_LINES = 256 };

typedef struct lines {
    char *items[MAX_LINES]; /* free */
    int n;
} lines;

static lines split(const job_file *journal)
{
    lines l = {0};
    for (const char *at = (const char *)journal->data; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        assert_true(l.n < MAX_LINES / 2);
        l.items[l.n++] = strndup(at, n);
        at += n + (at[n] != '\0');
    }
    return l;
}

/* `forged`: with the checksums that belong there. */
static void join(job_file *journal, lines *l, bool forged)
{
    char *all = NULL;
    size_t n = 0;
    uint64_t chain = 0;
    FILE *stream = open_memstream(&all, &n);
    assert_non_null(stream);
    for (int i = 0; i < l->n; i++) {
        char *line = l->items[i], *mark = strstr(line, " #");
        if (forged && i > 0) {
            const size_t length =
                mark != NULL ? (size_t)(mark - line) : strlen(line);
            const uint64_t pair[2] = {chain, qmi_hash64(line, length)};
            chain = qmi_hash64(pair, sizeof pair);
            fprintf(stream, "%.*s #%016" PRIx64 "\n", (int)length, line, chain);
        } else {
            fprintf(stream, "%s\n", line);
        }
        free(line);
    }
    fclose(stream);
    free(journal->data);
    journal->data = (uint8_t *)all;
    journal->n_bytes = n;
}

static void insert(lines *l, int at, const char *line)
{
    if (l->n == MAX_LINES)
        return;
    memmove(&l->items[at + 1], &l->items[at],
        (size_t)(l->n - at) * sizeof *l->items);
    l->items[at] = strdup(line);
    l->n++;
}

static void take_out(lines *l, int at)
{
    free(l->items[at]);
    memmove(&l->items[at], &l->items[at + 1],
        (size_t)(l->n - at - 1) * sizeof *l->items);
    l->n--;
}

/* The n-th word of a line, or its end. */
static const char *find_word(const char *line, size_t n)
{
    for (; n > 0; n--) {
        line += strcspn(line, " \t");
        line += strspn(line, " \t");
    }
    return line;
}

/* Puts a word in the place of one: the same of another line, or an odd one. */
static void replace_word(char **line, const char *other_line)
{
    static const char *const odd[] = {"-1", "0", "1", "2", "7", "100000000000",
        "9223372036854775807", "9223372036854775808", "18446744073709551615",
        "4611686018427387904", "0x1p+1023", "nan", "-inf", "", "expert", "x",
        "0123456789abcdef", "1e308"};
    const size_t at = chance(18);
    const char *word = find_word(*line, at), *other = find_word(other_line, at);
    char *all = NULL;
    if (chance(2) == 0)
        other = odd[chance(sizeof odd / sizeof *odd)];
    assert_true(asprintf(&all, "%.*s%.*s%s", (int)(word - *line), *line,
                    (int)strcspn(other, " \t"), other,
                    word + strcspn(word, " \t")) >= 0);
    free(*line);
    *line = all;
}

static void change_lines(lines *l)
{
    const int at = (int)chance((uint64_t)l->n);
    const int other = (int)chance((uint64_t)l->n);
    char *kept = l->items[at];
    switch (chance(10)) {
    case 0:
        if (l->n > 1)
            take_out(l, at);
        break;
    case 1:
        insert(l, other, kept);
        break;
    case 2:
        l->items[at] = l->items[other];
        l->items[other] = kept;
        break;
    case 3: /* more experts than there are */
        for (uint64_t n = 1 + chance(40); n > 0; n--)
            insert(l, l->n, l->items[l->n - 1]);
        break;
    case 4:
        if (kept[0] != '\0')
            kept[chance(strlen(kept))] = (char)(32 + chance(95));
        break;
    default: /* half of them */
        replace_word(&l->items[at], l->items[other]);
    }
}

static void change_bytes(job_file *file)
{
    const size_t at = chance(file->n_bytes + 1);
    const size_t most = file->n_bytes - at;
    const size_t n = chance((most < 64 ? most : 64) + 1);
    switch (chance(5)) {
    case 0:
        file->n_bytes = at;
        break;
    case 1:
        memset(file->data + at, 0, n);
        break;
    case 2: /* cut out */
        memmove(file->data + at, file->data + at + n, most - n);
        file->n_bytes -= n;
        break;
    default:
        for (uint64_t i = 1 + chance(64); i > 0 && file->n_bytes > 0; i--)
            file->data[chance(file->n_bytes)] ^= (uint8_t)(1 << chance(8));
    }
}

/* ---- a round ---- */

typedef struct counts {
    int n_rounds, n_whole, n_redone, n_refused;
} counts;

/* What was done to a stopped run. */
typedef struct tampering {
    bool journal, shards, forged;
} tampering;

static void change_journal(job_files *files, tampering *t)
{
    job_file *journal = job_files_find(files, "journal");
    t->journal = true;
    if (chance(3) == 0) {
        change_bytes(journal);
        return;
    }
    t->forged = chance(2) == 0;
    lines l = split(journal);
    for (uint64_t i = 1 + chance(3); i > 0 && l.n > 0; i--)
        change_lines(&l);
    join(journal, &l, t->forged);
}

static void change_shards(job_files *files, tampering *t)
{
    t->shards = true;
    /* The journal is the first by name. */
    job_file *file = &files->items[1 + chance(files->n - 1)];
    job_file *other = &files->items[1 + chance(files->n - 1)];
    const job_file kept = *file;
    switch (chance(8)) {
    case 0: /* contents exchanged */
        file->data = other->data;
        file->n_bytes = other->n_bytes;
        other->data = kept.data;
        other->n_bytes = kept.n_bytes;
        break;
    case 1: /* gone */
        free(file->data);
        *file = files->items[--files->n];
        break;
    default:
        change_bytes(file);
    }
}

/* Numbers that were forged may be in the report, and its checksum in
 * config.json; forged errors of trials choose other formats. */
static void compare(const tampered_job *job, const tampering *t, int round)
{
    job_files now = job_files_load(output);
    if (!t->forged || job->options.bits == 0)
        assert_int_equal(now.n, job->whole.n);
    for (size_t i = 0; i < now.n && i < job->whole.n; i++) {
        const job_file *a = &now.items[i], *b = &job->whole.items[i];
        const bool is_shard = strncmp(a->name, "model-", 6) == 0;
        if (t->forged && (!is_shard || job->options.bits != 0))
            continue;
        if (strcmp(a->name, b->name) != 0 || a->n_bytes != b->n_bytes ||
            memcmp(a->data, b->data, a->n_bytes) != 0)
            fail_msg("round %d: %s differs", round, a->name);
    }
    job_files_free(&now);
}

static void must_verify(int round)
{
    qmoe_context *context = NULL;
    qmoe_verify_report report;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    if (qmoe_verify(context, &report, output, NULL, NULL) != QMOE_OK)
        fail_msg("round %d: %s", round, qmoe_context_error(context));
    qmoe_context_destroy(context);
}

static void check(
    const tampered_job *job, const job_run *run, const tampering *t, int round)
{
    if (run->status == QMOE_OK) {
        compare(job, t, round);
        must_verify(round);
        return;
    }
    const bool is_refusal = run->status == QMOE_E_FORMAT ||
                            run->status == QMOE_E_INVALID ||
                            run->status == QMOE_E_EXISTS; /* not our journal */
    if (!is_refusal || strstr(run->error, ".partial/") == NULL ||
        strchr(run->error, '\n') != NULL)
        fail_msg("round %d: %s: %s", round, qmoe_status_name(run->status),
            run->error);
    if (!t->journal)
        fail_msg("round %d: %s", round, run->error);
    if (access(partial, F_OK) != 0 || access(output, F_OK) == 0)
        fail_msg("round %d: the interrupted run is gone", round);
}

static void tamper(int round, bool calibrated, counts *n)
{
    tampering t = {0};
    random_state = (uint64_t)round * 0x9e3779b97f4a7c15U;
    chance(1);
    const tampered_job *job =
        &jobs[calibrated ? CALIBRATED : chance(CALIBRATED)];
    job_files files = job_files_copy(&job->stopped[chance(N_STOPS)]);
    /* While trials are made there are no shards. */
    const uint64_t what = files.n == 1 ? 0 : chance(5);
    if (what < 3)
        change_journal(&files, &t);
    if (what > 1)
        change_shards(&files, &t);
    job_files_store(&files, partial);
    job_files_free(&files);
    job_run run = run_of(job);
    run.options.resume = true;
    job_go(&run);
    check(job, &run, &t, round);
    job_remove(output);
    job_remove(partial);
    n->n_rounds++;
    n->n_whole += run.status == QMOE_OK;
    n->n_redone += run.n_redone != 0;
    n->n_refused += run.status != QMOE_OK;
}

static int n_rounds = DEFAULT_ROUNDS, first, every;

static void test_tampered(void **state)
{
    (void)state;
    counts n = {0};
    for (int i = 0; i < N_JOBS; i++)
        if (!jobs[i].calibrated || every != 0)
            prepare(&jobs[i]);
    for (int round = first; round < first + n_rounds; round++)
        tamper(round, every != 0 && round % every == 0, &n);
    printf("  %d rounds: %d went on (%d after a message that damaged experts "
           "are done again), %d were refused\n",
        n.n_rounds, n.n_whole, n.n_redone, n.n_refused);
    assert_true(n.n_whole > 0);
    assert_true(n.n_redone > 0);
    assert_true(n.n_refused > 0);
    for (int i = 0; i < N_JOBS; i++) {
        job_files_free(&jobs[i].whole);
        for (int j = 0; j < N_STOPS; j++)
            job_files_free(&jobs[i].stopped[j]);
    }
}

int main(int argc, char **argv)
{
    int *const numbers[] = {&n_rounds, &first, &every};
    for (int i = 1; i < argc && i <= 3; i++)
        *numbers[i - 1] = atoi(argv[i]);
    snprintf(output, sizeof output, "%s", scratch_path("tampered-out"));
    snprintf(partial, sizeof partial, "%s.partial", output);
    snprintf(text, sizeof text, "%s/tests/golden/README.md", QMOE_SOURCE_DIR);
    job_remove(output);
    job_remove(partial);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tampered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
