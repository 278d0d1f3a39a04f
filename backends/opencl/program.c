/* SPDX-License-Identifier: Apache-2.0
 * Building of programs from the embedded sources, specialised by the device's
 * tuning.  In: a program's number.  Out: its kernels, from the cache or the
 * compiler, or an error with the compiler's log.  A program is built once per
 * device; its key holds everything its binary depends on: device, driver,
 * sources, options. */
#include "formats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "program_cache.h"
#include "sources.h"

static const char *const base_kernels[] = {
#define X(name) #name,
    QOCL_BASE_KERNELS(X) NULL};
static const char *const gemm_kernels[] = {QOCL_GEMM_KERNELS(X) NULL};
static const char *const format_kernels[] = {QOCL_FORMAT_KERNELS(X) NULL};
#undef X

int qocl_format_program(qmi_format_id format, bool many)
{
    return QOCL_FIRST_FORMAT_PROGRAM + 2 * (int)format + many;
}

static qocl_recipe base_recipe(const qocl_tuning *t)
{
    qocl_recipe r = {
        .name = "base",
        .sources = {qocl_source_common, qocl_source_simple, qocl_source_kv_rows,
            qocl_source_attention, qocl_source_route, qocl_source_top_logits},
        .n_sources = 6,
        .kernels = base_kernels,
    };
    snprintf(r.options, sizeof r.options,
        "-cl-std=CL1.2 -D LANES=%d -D ATTENTION_LANES=%d", t->lanes,
        t->attention_lanes);
    return r;
}

static qocl_recipe gemm_recipe(void)
{
    return (qocl_recipe){
        .name = "gemm",
        .sources = {qocl_source_common, qocl_source_gemm},
        .n_sources = 2,
        .options = "-cl-std=CL1.2",
        .kernels = gemm_kernels,
    };
}

static qocl_recipe format_recipe(const qmi_device *device, int number)
{
    /* Two programs per format: for one token and for many. */
    qocl_recipe r = qocl_format_recipe(
        &device->tuning, (qmi_format_id)(number / 2), number % 2 != 0);
    r.kernels = format_kernels;
    return r;
}

/* The compiler's log, cut to what an error text holds. */
static qmoe_status build_error(qmi_device *device, cl_program program,
    const qocl_recipe *r, cl_int status, qmi_error *err)
{
    size_t n = 0;
    qmi_cl.GetProgramBuildInfo(
        program, device->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &n);
    char *log = qmi_calloc(n + 1, 1, "a build log", NULL);
    if (log != NULL && n != 0)
        qmi_cl.GetProgramBuildInfo(
            program, device->id, CL_PROGRAM_BUILD_LOG, n, log, NULL);
    qmi_fail(err, QMOE_E_DEVICE,
        "OpenCL device '%s': its compiler refuses program %s [%s] (%s): %.600s",
        device->name, r->name, r->options, qocl_error_name(status),
        log != NULL ? log : "");
    qmi_free(log);
    return QMOE_E_DEVICE;
}

static void release_kernels(qocl_program *p)
{
    for (size_t i = 0; i < QOCL_MAX_KERNELS; i++)
        if (p->kernels[i] != NULL)
            qmi_cl.ReleaseKernel(p->kernels[i]);
}

void qocl_release_program(qocl_program *program)
{
    release_kernels(program);
    if (program->program != NULL)
        qmi_cl.ReleaseProgram(program->program);
    *program = (qocl_program){0};
}

/* Kernel objects of a built program; false leaves *out empty. */
static cl_int take_kernels(
    qocl_program *out, cl_program program, const qocl_recipe *r)
{
    cl_int status = CL_SUCCESS;
    /* What is there when one fails is released below. */
    *out = (qocl_program){.program = program};
    for (size_t i = 0; r->kernels[i] != NULL && status == CL_SUCCESS; i++)
        out->kernels[i] = qmi_cl.CreateKernel(program, r->kernels[i], &status);
    if (status == CL_SUCCESS)
        return status;
    release_kernels(out);
    *out = (qocl_program){0};
    return status;
}

/* A cached binary that the driver does not take any more is no error. */
static bool build_from_cache(
    qocl_program *out, qmi_device *device, const qocl_recipe *r, uint64_t key)
{
    size_t n = 0;
    unsigned char *binary = qocl_cache_load(&n, key);
    if (binary == NULL)
        return false;
    cl_int status, binary_status;
    cl_program program =
        qmi_cl.CreateProgramWithBinary(device->context, 1, &device->id, &n,
            (const unsigned char **)&binary, &binary_status, &status);
    qmi_free(binary);
    /* Another driver than the one that wrote it: the source is compiled. */
    if (status != CL_SUCCESS)
        return false;
    /* A binary must be "built", too, before its kernels can be taken. */
    status =
        qmi_cl.BuildProgram(program, 1, &device->id, r->options, NULL, NULL);
    if (status == CL_SUCCESS)
        status = take_kernels(out, program, r);
    if (status != CL_SUCCESS)
        qmi_cl.ReleaseProgram(program);
    return status == CL_SUCCESS;
}

/* Nothing is told of a failure: the next process compiles again. */
static void store_in_cache(cl_program program, uint64_t key)
{
    size_t n = 0;
    if (qmi_cl.GetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof n, &n,
            NULL) != CL_SUCCESS ||
        n == 0)
        return;
    unsigned char *binary = qmi_calloc(n, 1, "a program", NULL);
    if (binary != NULL && qmi_cl.GetProgramInfo(program, CL_PROGRAM_BINARIES,
                              sizeof binary, &binary, NULL) == CL_SUCCESS)
        qocl_cache_store(key, binary, n);
    qmi_free(binary);
}

#ifdef QMOE_OPENCL_BREAK
/* QMOE_OPENCL_BREAK="program|from|to", in the module of the tests alone: the
 * program is compiled with its first `from` replaced, as by a compiler that
 * gets it wrong. *broken is the changed source, to be released by the
 * caller. */
static qmoe_status break_source(qocl_recipe *r, char **broken, qmi_error *err)
{
    const char *text = getenv("QMOE_OPENCL_BREAK");
    char from[200], to[200];
    const size_t n_name = strlen(r->name);
    *broken = NULL;
    if (text == NULL || strncmp(text, r->name, n_name) != 0 ||
        sscanf(text + n_name, "|%199[^|]|%199[^|]", from, to) != 2)
        return QMOE_OK;
    for (cl_uint i = 0; i < r->n_sources; i++) {
        const char *source = r->sources[i], *at = strstr(source, from);
        if (at == NULL)
            continue;
        const size_t n = strlen(source) + strlen(to) + 1;
        *broken = qmi_calloc(n, 1, "a program", err);
        if (*broken == NULL)
            return QMOE_E_NOMEM;
        snprintf(*broken, n, "%.*s%s%s", (int)(at - source), source, to,
            at + strlen(from));
        r->sources[i] = *broken;
        return QMOE_OK;
    }
    return qmi_fail(err, QMOE_E_INVALID,
        "QMOE_OPENCL_BREAK: program %s has no '%s'", r->name, from);
}
#else
static qmoe_status break_source(qocl_recipe *r, char **broken, qmi_error *err)
{
    (void)r;
    (void)err;
    *broken = NULL;
    return QMOE_OK;
}
#endif

static uint64_t key_of(const qmi_device *device, const qocl_recipe *r)
{
    uint64_t key = device->identity;
    /* Sources after the break: a broken program has a key of its own. */
    for (cl_uint i = 0; i < r->n_sources; i++)
        key = qocl_hash(key, r->sources[i], strlen(r->sources[i]));
    key = qocl_hash(key, r->table, strlen(r->table));
    return qocl_hash(key, r->options, strlen(r->options));
}

uint64_t qocl_tuning_key(const qmi_device *device)
{
    /* All sources that a tuning has been measured with: a changed kernel may be
     * fastest otherwise. */
    const char *const sources[] = {qocl_source_common, qocl_source_simple,
        qocl_source_kv_rows, qocl_source_attention, qocl_source_route,
        qocl_source_top_logits, qocl_source_pack, qocl_source_dense,
        qocl_source_ternary_dict, qocl_source_q2, qocl_source_pvq,
        qocl_source_pvq_lanes, qocl_source_pvq_rows, qocl_source_tlut};
    uint64_t key = qocl_hash(device->identity, "tuning", sizeof "tuning");
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        key = qocl_hash(key, sources[i], strlen(sources[i]));
    return key;
}

static qmoe_status build_from_source(qocl_program *out, qmi_device *device,
    const qocl_recipe *r, uint64_t key, qmi_error *err)
{
    cl_int status;
    const char *sources[1 + QOCL_MAX_SOURCES] = {r->table};
    memcpy(sources + 1, r->sources, sizeof r->sources);
    cl_program program = qmi_cl.CreateProgramWithSource(
        device->context, 1 + r->n_sources, sources, NULL, &status);
    if (status != CL_SUCCESS)
        return qocl_fail(device, "a program", status, err);
    status =
        qmi_cl.BuildProgram(program, 1, &device->id, r->options, NULL, NULL);
    if (status == CL_SUCCESS)
        status = take_kernels(out, program, r);
    if (status != CL_SUCCESS) {
        build_error(device, program, r, status, err);
        qmi_cl.ReleaseProgram(program);
        return QMOE_E_DEVICE;
    }
    store_in_cache(program, key);
    return QMOE_OK;
}

/* What a kernel takes must be what the device, or the one it imitates, has. */
static qmoe_status check_kernels(qmi_device *device, const qocl_program *built,
    const qocl_recipe *r, qmi_error *err)
{
    for (size_t i = 0; r->kernels[i] != NULL; i++) {
        cl_ulong local = 0;
        qmi_cl.GetKernelWorkGroupInfo(built->kernels[i], device->id,
            CL_KERNEL_LOCAL_MEM_SIZE, sizeof local, &local, NULL);
        if (local > device->limits.local_memory)
            return qmi_fail(err, QMOE_E_DEVICE,
                "OpenCL device '%s': kernel %s of program %s needs %" PRIu64
                " bytes of local memory, there are %" PRIu64,
                device->name, r->kernels[i], r->name, (uint64_t)local,
                device->limits.local_memory);
    }
    return QMOE_OK;
}

/* Programs that are built stay; one that is refused does not, or the next call
 * would find it. */
qmoe_status qocl_build(qmi_device *device, int program, qmi_error *err)
{
    qocl_program *out = &device->programs[program];
    if (out->program != NULL)
        return QMOE_OK;
    const int number = program - QOCL_FIRST_FORMAT_PROGRAM;
    /* A recipe says all that a program is made of. */
    qocl_recipe r = program == QOCL_BASE_PROGRAM ? base_recipe(&device->tuning)
                    : program == QOCL_GEMM_PROGRAM
                        ? gemm_recipe()
                        : format_recipe(device, number);
    char *broken;
    QMI_TRY(break_source(&r, &broken, err));
    const uint64_t key = key_of(device, &r);
    qmoe_status status = QMOE_OK;
    if (!build_from_cache(out, device, &r, key))
        status = build_from_source(out, device, &r, key, err);
    qmi_free(broken);
    if (status == QMOE_OK)
        status = check_kernels(device, out, &r, err);
    if (status != QMOE_OK)
        qocl_release_program(out);
    return status;
}
