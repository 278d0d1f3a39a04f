/* SPDX-License-Identifier: Apache-2.0
 * What a device allows, and QMOE_OPENCL_LIMITS, which lowers it.  In: what the
 * driver says, and the variable.  Out: limits that everything else keeps to, so
 * that a small device can be imitated on a large one in tests.  Memory sizes
 * are only ever lowered: what the driver does not have is not promised.  A
 * wrong variable is a problem of the device, told when it is opened. */
#include "find.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "512", "32K", "64M", "1G": binary units. */
static bool parse_size(uint64_t *out, const char *text, size_t n)
{
    char *end;
    if (n == 0 || text[0] < '0' || text[0] > '9')
        return false;
    const unsigned long long value = strtoull(text, &end, 10);
    const char *unit = strchr("KMG", *end);
    const int shift = end == text + n || *end == '\0' ? 0
                      : unit != NULL                  ? (*end == 'K'      ? 10
                                                            : *end == 'M' ? 20
                                                                          : 30)
                                                      : -1;
    /* The number, one unit at most, and the end of the item. */
    if (shift < 0 || value > UINT64_MAX >> shift ||
        end + (shift != 0) != text + n)
        return false;
    *out = (uint64_t)value << shift;
    return true;
}

static void lower(uint64_t *limit, uint64_t n)
{
    *limit = n < *limit ? n : *limit;
}

static bool is_word(const char *text, size_t n, const char *word)
{
    return n == strlen(word) && strncmp(text, word, n) == 0;
}

/* One "key=value" of `n` characters; false when it is not understood. */
static bool apply(qocl_limits *limits, const char *text, size_t n)
{
    /* max_group is a size_t: lowered in 64 bits and written back. */
    uint64_t value = 0, group = limits->max_group;
    const char *at = memchr(text, '=', n);
    /* 'c' or 'g': the seventh letter. */
    if (is_word(text, n, "style=gpu") || is_word(text, n, "style=cpu")) {
        limits->is_cpu = text[6] == 'c';
        return true;
    }
    if (is_word(text, n, "experts=streamed")) {
        limits->stream_all = true;
        return true;
    }
    if (at == NULL ||
        !parse_size(&value, at + 1, n - (size_t)(at + 1 - text)) || value == 0)
        return false;
    n = (size_t)(at - text);
    if (is_word(text, n, "local"))
        lower(&limits->local_memory, value);
    else if (is_word(text, n, "group"))
        lower(&group, value);
    else if (is_word(text, n, "alloc"))
        lower(&limits->max_alloc, value);
    else if (is_word(text, n, "clblast"))
        limits->clblast_tokens = value;
    else if (is_word(text, n, "chunk"))
        limits->max_chunk = value;
    else if (is_word(text, n, "memory")) {
        /* A budget: memory is counted even where it is the host's own. */
        lower(&limits->memory, value);
        limits->has_budget = true;
    } else
        return false;
    limits->max_group = (size_t)group;
    return true;
}

static void apply_environment(qocl_limits *limits)
{
    const char *text = getenv("QMOE_OPENCL_LIMITS");
    while (text != NULL && *text != '\0') {
        /* Items are separated by commas; empty ones are allowed. */
        const size_t n = strcspn(text, ",");
        if (n != 0 && !apply(limits, text, n)) {
            snprintf(limits->problem, sizeof limits->problem,
                "QMOE_OPENCL_LIMITS: '%.*s' is not understood",
                n < 40 ? (int)n : 40, text);
            return;
        }
        text += n + (text[n] == ',');
    }
}

/* A question that the driver does not answer leaves the least: later checks
 * refuse the device. */
qocl_limits qocl_read_limits(cl_device_id id)
{
    cl_ulong alloc = 0, memory = 0, local = 0;
    cl_bool unified = CL_FALSE;
    size_t group = 1;
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof alloc, &alloc, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof local, &local, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof unified, &unified, NULL);
    qocl_limits limits = {
        .max_alloc = alloc,
        .memory = memory,
        .local_memory = local,
        .max_chunk = UINT64_MAX,
        .max_group = group,
        .is_unified = unified != CL_FALSE,
        .is_cpu = qocl_type(id) == CL_DEVICE_TYPE_CPU,
    };
    apply_environment(&limits);
    /* A chunk is a buffer, so it cannot be larger than one. */
    if (limits.max_chunk > limits.max_alloc)
        limits.max_chunk = limits.max_alloc;
    return limits;
}
