/* SPDX-License-Identifier: Apache-2.0
 * The table of tunings and their text form.  In: limits of a device, or a text.
 * Out: values that are powers of two within the bounds of tuning.h, and whether
 * a device can have them.  A default is lowered until it fits, so that every
 * usable device has one. */
#include "tuning.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct parameter {
    const char *name;
    size_t offset;
    int least, most;
} parameter;

/* By name and place, so that text and struct cannot differ. */
static const parameter parameters[] = {
#define X(member, least, most)                                                 \
    {#member, offsetof(qocl_tuning, member), least, most},
    QOCL_TUNING_MAP(X)
#undef X
};
enum { N_PARAMETERS = sizeof parameters / sizeof *parameters };

static int *value_of(qocl_tuning *t, const parameter *p)
{
    return (int *)((char *)t + p->offset);
}

/* Processors: a work-item is a loop over wide vectors, barriers are dear. */
static const qocl_tuning processor = {
    .many = 16,
    .pvq_many = 8,
    .group = 64,
    .lanes = 1,
    .dense_rows = 4,
    .width = 16,
    .pvq_rows = 16,
    .pvq_lookup = 2,
    .pvq_split = 1,
    .td_group = 4,
    .pack_lanes = 1,
    .attention_lanes = 1,
};

/* Others: lanes share rows, vectors only where tokens share weights. */
static const qocl_tuning lockstep = {
    .many = 4,
    .pvq_many = 4,
    .group = 64,
    .lanes = 64,
    .dense_rows = 4,
    .width = 4,
    .pvq_rows = 1,
    .pvq_lookup = 1,
    .pvq_split = 4,
    .td_group = 64,
    .pack_lanes = 64,
    .attention_lanes = 64,
};

/* Values are powers of two and stay so. */
static void halve_to(int *value, size_t most)
{
    while (*value > 1 && (size_t)*value > most)
        *value /= 2;
}

bool qocl_tuning_default(
    qocl_tuning *out, const qocl_limits *limits, bool is_cpu)
{
    const size_t most = limits->max_group;
    *out = is_cpu ? processor : lockstep;
    /* Groups first, then lanes until the local memory is enough. */
    halve_to(&out->group, most);
    halve_to(&out->lanes, most);
    /* A group of the pvq kernels has 32 lanes per split. */
    halve_to(&out->pvq_split, most / 32);
    halve_to(&out->td_group, most);
    halve_to(&out->pack_lanes, most);
    halve_to(&out->attention_lanes, most);
    while (out->lanes > 1 && !qocl_tuning_fits(out, limits))
        out->lanes /= 2;
    return qocl_tuning_fits(out, limits);
}

/* Local memory of the kernel that needs most, bytes. */
static uint64_t local_bytes(const qocl_tuning *t)
{
    const uint64_t dense =
        t->lanes > 1 ? (uint64_t)t->lanes * (uint64_t)(t->dense_rows * t->many)
                     : 1;
    /* Of pvq and tlut: a sum per work-item, and the table of tlut. */
    const uint64_t tiled =
        t->pvq_rows == 1 ? 32 * (uint64_t)(t->pvq_split * t->pvq_many) + 256
                         : 1;
    const uint64_t pack = t->pack_lanes > 1 ? 1024 : 0;
    const uint64_t attention = (uint64_t)t->attention_lanes + 16;
    const uint64_t top = 2 * (uint64_t)t->lanes;
    uint64_t most = dense > tiled ? dense : tiled;
    /* Kernels run one after the other: the largest counts. */
    most = top > most ? top : most;
    most = pack > most ? pack : most;
    return 4 * (attention > most ? attention : most);
}

bool qocl_tuning_fits(const qocl_tuning *t, const qocl_limits *limits)
{
    const int groups[] = {t->group, t->lanes, t->td_group, t->pack_lanes,
        t->attention_lanes, t->pvq_rows == 1 ? 32 * t->pvq_split : 1};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if ((size_t)groups[i] > limits->max_group)
            return false;
    /* The two forms of the pvq and tlut kernels. */
    return (t->pvq_rows == 1 || t->pvq_rows == 16) &&
           local_bytes(t) <= limits->local_memory;
}

void qocl_tuning_print(char out[QOCL_TUNING_TEXT], const qocl_tuning *t)
{
    qocl_tuning copy = *t;
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; i < N_PARAMETERS && n < QOCL_TUNING_TEXT; i++)
        n += (size_t)snprintf(out + n, QOCL_TUNING_TEXT - n, "%s%s=%d",
            i != 0 ? "," : "", parameters[i].name,
            *value_of(&copy, &parameters[i]));
}

static const parameter *find(const char *name, size_t n)
{
    for (int i = 0; i < N_PARAMETERS; i++)
        if (strlen(parameters[i].name) == n &&
            memcmp(parameters[i].name, name, n) == 0)
            return &parameters[i];
    return NULL;
}

/* What the text does not name stays.  Assignments before a wrong one are made;
 * callers parse into a copy or give up. */
qmoe_status qocl_tuning_parse(qocl_tuning *t, const char *text, qmi_error *err)
{
    while (*text != '\0') {
        const size_t n = strcspn(text, "=,");
        const parameter *p = text[n] == '=' ? find(text, n) : NULL;
        if (p == NULL)
            return qmi_fail(err, QMOE_E_INVALID,
                "OpenCL tuning: no parameter '%.*s'", (int)n, text);
        char *end;
        const long value = strtol(text + n + 1, &end, 10);
        if (end == text + n + 1 || (*end != '\0' && *end != ',') ||
            value < p->least || value > p->most || (value & (value - 1)) != 0)
            return qmi_fail(err, QMOE_E_INVALID,
                "OpenCL tuning: %s must be a power of two from %d to %d",
                p->name, p->least, p->most);
        *value_of(t, p) = (int)value;
        text = end + (*end == ',');
    }
    return QMOE_OK;
}
