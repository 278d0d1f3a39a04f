/* SPDX-License-Identifier: Apache-2.0
 * Products of the CPU backend where the harness's small shapes do not reach:
 * rotated weights, and matrices large enough to be shared among threads.
 * Every variant, against plain double sums over the decoded rows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cpu.h"
#include "pvq.h"

enum { N_TOKENS = 5 };

static uint32_t random_state = 1;

static uint32_t draw(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

typedef struct fixture {
    qmi_weight w;
    uint8_t *codes;
    uint16_t *scales;
    float *x;
} fixture;

static fixture make(
    const qmi_format *format, int64_t rows, int64_t cols, int32_t rotation)
{
    const qmi_pvq_shape s = qmi_pvq_shape_of(qmi_pvq_width(format), rows, cols);
    const size_t n_codes = (size_t)s.n_tiles * s.tile_bytes;
    fixture f = {
        .codes = malloc(n_codes),
        .scales = malloc((size_t)rows * 2),
        .x = malloc((size_t)(N_TOKENS * cols) * sizeof(float)),
    };
    assert_true(f.codes != NULL && f.scales != NULL && f.x != NULL);
    for (size_t i = 0; i < n_codes; i++)
        f.codes[i] = (uint8_t)draw();
    for (int64_t i = 0; i < rows; i++)
        f.scales[i] = (uint16_t)(0x3c00 + draw() % 512); /* about 0.01 */
    for (int64_t i = 0; i < N_TOKENS * cols; i++)
        f.x[i] = (float)(draw() % 2001) * 1e-3f - 1.0f;
    f.w = (qmi_weight){
        .format = format,
        .name = "test",
        .n_mats = 1,
        .n_rows = rows,
        .n_cols = cols,
        .parts = {[QMI_PVQ_CODES] = {f.codes, n_codes},
            [QMI_PVQ_SCALES] = {f.scales, (uint64_t)rows * 2}},
        .rotation = rotation,
        .rotation_seed = 77,
    };
    return f;
}

static void release(fixture *f)
{
    free(f->codes);
    free(f->scales);
    free(f->x);
}

/* y of variant `index` with n_threads; false when it does not take it. */
static bool run(
    const fixture *f, size_t index, int n_threads, int64_t n_tokens, float *y)
{
    const qmi_backend *cpu = qmi_backend_cpu();
    const qmi_device_options options = {.n_threads = n_threads};
    const uint64_t x_bytes = (uint64_t)(n_tokens * f->w.n_cols) * 4;
    const uint64_t y_bytes = (uint64_t)(n_tokens * f->w.n_rows) * 4;
    qmi_device *device = NULL;
    qmi_buffer *x = NULL, *dst = NULL;
    size_t n = 0;
    assert_int_equal(cpu->device_open(&device, 0, &options, NULL), QMOE_OK);
    assert_int_equal(cpu->buffer_alloc(&x, device, x_bytes, NULL), QMOE_OK);
    assert_int_equal(cpu->buffer_alloc(&dst, device, y_bytes, NULL), QMOE_OK);
    assert_int_equal(
        cpu->buffer_write(device, (qmi_view){x, 0}, f->x, x_bytes, NULL),
        QMOE_OK);
    const qmi_bound_weight bound = {.host = &f->w};
    const qmi_op op = {
        .kind = QMI_OP_LINEAR,
        .u.linear = {.dst = {dst, 0},
            .src = {x, 0},
            .weight = &bound,
            .n_tokens = n_tokens,
            .alpha = 1.0f},
    };
    const qmi_variant *variants = cpu->variants(device, QMI_OP_LINEAR, &n);
    const bool taken = index < n && variants[index].supports(device, &op);
    if (taken) {
        assert_int_equal(variants[index].run(device, &op, NULL), QMOE_OK);
        assert_int_equal(
            cpu->buffer_read(device, y, (qmi_view){dst, 0}, y_bytes, NULL),
            QMOE_OK);
    }
    cpu->buffer_free(device, dst);
    cpu->buffer_free(device, x);
    cpu->device_close(device);
    return taken;
}

/* A rotation mixes columns, so the error scales with the norms. */
static void check_values(const fixture *f, const float *y, int64_t n_tokens)
{
    const int64_t rows = f->w.n_rows, cols = f->w.n_cols;
    float *row = malloc((size_t)cols * sizeof *row);
    assert_non_null(row);
    for (int64_t r = 0; r < rows; r++) {
        qmi_weight_decode(&f->w, 0, r, 1, row);
        for (int64_t t = 0; t < n_tokens; t++) {
            double sum = 0, w2 = 0, x2 = 0;
            for (int64_t c = 0; c < cols; c++) {
                const double x = f->x[t * cols + c];
                sum += row[c] * x;
                w2 += (double)row[c] * row[c];
                x2 += x * x;
            }
            assert_true(fabs(y[t * rows + r] - sum) <= 2e-6 * sqrt(w2 * x2));
        }
    }
    free(row);
}

static void check_all(const fixture *f, int64_t n_tokens)
{
    const size_t n = (size_t)(n_tokens * f->w.n_rows);
    float *one = malloc(n * sizeof *one), *many = malloc(n * sizeof *many);
    size_t n_run = 0;
    assert_true(one != NULL && many != NULL);
    for (size_t i = 0; i < 64; i++) {
        if (!run(f, i, 1, n_tokens, one))
            continue;
        check_values(f, one, n_tokens);
        assert_true(run(f, i, 4, n_tokens, many));
        assert_memory_equal(one, many, n * sizeof *one);
        n_run++;
    }
    assert_true(n_run > 0);
    free(one);
    free(many);
}

static void test_rotated(void **state)
{
    (void)state;
    static const int64_t cols[] = {64, 100, 1040};
    static const int32_t rotations[] = {1, 16, 64, 1024};
    const qmi_format *formats[] = {&qmi_format_pvq, &qmi_format_pvq8};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
            for (size_t r = 0; r < 4; r++)
                for (int64_t n = 1; n <= N_TOKENS; n += 4) {
                    fixture f = make(formats[k], 70, cols[i], rotations[r]);
                    check_all(&f, n);
                    release(&f);
                }
}

static void test_large_by_many_threads(void **state)
{
    (void)state;
    const qmi_format *formats[] = {&qmi_format_pvq, &qmi_format_pvq8};
    for (size_t k = 0; k < 2; k++) {
        fixture f = make(formats[k], 1553, 1040, 64);
        check_all(&f, 1);
        check_all(&f, N_TOKENS);
        release(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotated),
        cmocka_unit_test(test_large_by_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
