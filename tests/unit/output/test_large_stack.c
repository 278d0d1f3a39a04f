/* SPDX-License-Identifier: Apache-2.0
 * Offsets beyond 32 bits: a shard of a stack whose codes go past 4 GiB and
 * whose weights number past 2^31 (and 2^32), written as a sparse file.  The
 * last matrix lies behind all of it and must decode and compute as it does on
 * its own. */
#include "scratch.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
#include "backend.h"
#include "cpu.h"
#include "pvq.h"
#include "safetensors.h"
#include "scratch_file.h"
#include "stack_writer.h"

enum { N = 512, N_MATS = 240001, LAST = N_MATS - 1, ROTATION = 64 };

static void fill_matrix(qmi_encoded *out)
{
    const qmi_pvq_shape shape = qmi_pvq_shape_of(16, N, N);
    uint32_t random = 5;
    *out = (qmi_encoded){.format = &qmi_format_pvq,
        .n_rows = N,
        .n_cols = N,
        .part_bytes = {(size_t)shape.n_tiles * shape.tile_bytes, 2 * N}};
    for (int i = 0; i < 2; i++) {
        out->parts[i] = qmi_calloc(out->part_bytes[i], 1, "a matrix", NULL);
        assert_non_null(out->parts[i]);
    }
    for (size_t i = 0; i < out->part_bytes[QMI_PVQ_CODES]; i++) {
        random = random * 1664525u + 1013904223u;
        out->parts[QMI_PVQ_CODES][i] = (uint8_t)(random >> 24);
    }
    for (size_t i = 0; i < N; i++) {
        out->parts[QMI_PVQ_SCALES][2 * i] = (uint8_t)i;
        out->parts[QMI_PVQ_SCALES][2 * i + 1] = 0x3d; /* 0.03 to 0.12 */
    }
}

/* A file system without holes would really write gigabytes. */
static bool has_sparse_files(void)
{
    const char *path = scratch_path("sparse-probe.bin");
    struct stat info = {0};
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 16 << 20), 0);
    assert_int_equal(fstat(fd, &info), 0);
    close(fd);
    unlink(path);
    return info.st_blocks < 1024;
}

static void write_shard(const char *path, const qmi_encoded *last)
{
    qmi_error err = {0};
    qmi_stack_writer *writer = NULL;
    qmi_new_file file;
    const qmi_stack_plan plan = {"s", &qmi_format_pvq, N_MATS, N, N};
    uint64_t hash = 0, n_bytes = 0;
    assert_int_equal(scratch_new_file(&file, path, &err), QMOE_OK);
    assert_int_equal(
        qmi_stack_writer_create(&writer, &file, &plan, &err), QMOE_OK);
    assert_int_equal(
        qmi_stack_writer_add_hollow(writer, N_MATS + 1, &err), QMOE_E_INVALID);
    assert_int_equal(qmi_stack_writer_add_hollow(writer, LAST, &err), QMOE_OK);
    assert_int_equal(qmi_stack_writer_add(writer, last, &err), QMOE_OK);
    assert_int_equal(
        qmi_stack_writer_finish(writer, &hash, &n_bytes, &err), QMOE_OK);
    assert_true(n_bytes > UINT64_C(1) << 32);
    qmi_stack_writer_destroy(writer);
}

static qmi_weight describe(const qmi_part *parts, int64_t n_mats)
{
    return (qmi_weight){.format = &qmi_format_pvq,
        .name = "s",
        .n_mats = n_mats,
        .n_rows = N,
        .n_cols = N,
        .parts = {parts[0], parts[1]},
        .rotation = ROTATION,
        .role = QMOE_ROLE_EXPERTS};
}

/* y of expert `mat` as both wi and wo, or of its wi alone. */
static void compute(const qmi_backend *backend, const qmi_weight *w,
    int32_t mat, bool ffn, float *y)
{
    const qmi_device_options options = {.n_threads = 2};
    const float one = 1;
    float x[N];
    qmi_error err = {0};
    qmi_device *device = NULL;
    qmi_bound_weight bound = {0};
    qmi_buffer *b[4] = {NULL}; /* src, dst, expert, weight */
    for (int i = 0; i < N; i++)
        x[i] = (float)(i % 7) - 3;
    assert_int_equal(backend->device_open(&device, 0, &options, &err), 0);
    assert_int_equal(backend->weight_bind(&bound, device, w, &err), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            backend->buffer_alloc(&b[i], device, sizeof x, &err), 0);
    const qmi_view src = {b[0], 0}, dst = {b[1], 0}, expert = {b[2], 0},
                   weight = {b[3], 0};
    backend->buffer_write(device, src, x, sizeof x, &err);
    backend->buffer_write(device, expert, &mat, sizeof mat, &err);
    backend->buffer_write(device, weight, &one, sizeof one, &err);
    qmi_op op = {.kind = QMI_OP_LINEAR};
    if (ffn) {
        op.kind = QMI_OP_EXPERT_FFN;
        op.u.expert_ffn = (qmi_op_expert_ffn){.dst = dst,
            .src = src,
            .expert = expert,
            .weight = weight,
            .act = QMI_ACT_RELU,
            .up = &bound,
            .down = &bound,
            .n_tokens = 1,
            .top_k = 1};
    } else {
        op.u.linear = (qmi_op_linear){.dst = dst,
            .src = src,
            .weight = &bound,
            .mat = mat,
            .n_tokens = 1,
            .alpha = 1};
    }
    if (qmi_run(backend, device, &op, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    backend->buffer_read(device, y, dst, N * sizeof *y, &err);
    for (int i = 0; i < 4; i++)
        backend->buffer_free(device, b[i]);
    backend->weight_unbind(device, &bound);
    backend->device_close(device);
}

static void check_same(const qmi_weight *large, const qmi_weight *alone)
{
    static float a[N * N], b[N * N];
    qmi_weight_decode(large, LAST, 0, N, a);
    qmi_weight_decode(alone, 0, 0, N, b);
    assert_memory_equal(a, b, sizeof a);
    for (int ffn = 0; ffn < 2; ffn++) {
        double error = 0, energy = 0;
        compute(qmi_backend_cpu(), large, LAST, ffn == 1, a);
        compute(qmi_backend_reference(), alone, 0, ffn == 1, b);
        for (int i = 0; i < N; i++) {
            error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            energy += (double)b[i] * b[i];
        }
        assert_true(energy > 1 && error <= 1e-10 * energy);
    }
    qmi_weight_decode(large, LAST - 1, 0, N, a);
    for (int i = 0; i < N * N; i++)
        assert_true(a[i] == 0);
}

static void last_matrix_of_a_large_stack(void **state)
{
    (void)state;
    if (!has_sparse_files()) {
        print_message("SKIPPED: the file system has no sparse files\n");
        skip();
    }
    const char *path = scratch_path("large-stack.safetensors");
    qmi_encoded last;
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    struct stat info = {0};
    fill_matrix(&last);
    write_shard(path, &last);
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_blocks < 8192); /* of 512 bytes */
    if (qmi_safetensors_open(&file, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    const qmi_tensor *codes = qmi_tensor_file_find(file, "s.codes");
    const qmi_tensor *scales = qmi_tensor_file_find(file, "s.scales");
    assert_true(codes != NULL && codes->n_bytes > UINT64_C(1) << 32);
    assert_non_null(scales);
    const qmi_part far[2] = {
        {codes->data, codes->n_bytes}, {scales->data, scales->n_bytes}};
    const qmi_part near[2] = {{last.parts[0], last.part_bytes[0]},
        {last.parts[1], last.part_bytes[1]}};
    const qmi_weight large = describe(far, N_MATS), alone = describe(near, 1);
    check_same(&large, &alone);
    qmi_tensor_file_close(file);
    unlink(path);
    qmi_encoded_free(&last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_matrix_of_a_large_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
