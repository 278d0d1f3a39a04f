/* SPDX-License-Identifier: Apache-2.0
 * In: patterns of a tokenizer's file, and text.  Out: where they match.
 * Invariant: PCRE2 sees only what pattern_rewrite.c has let through, and every
 * match ends after a bounded number of steps and within a bounded memory. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pattern.h"

#include <pcre2.h>
#include <string.h>

#include "alloc.h"

enum {
    MAX_NESTING = 50,
    /* Steps of one match: linear in a run of white space, which may be a whole
     * text. */
    MAX_STEPS = 100000000,
    MAX_HEAP_KIB = 64 << 10,
    JIT_STACK_START = 32 << 10,
    JIT_STACK_MAX = 8 << 20
};

struct qmi_pattern {
    pcre2_code *code;
};

struct qmi_matcher {
    pcre2_general_context *general;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack; /* NULL: the default of 32 KiB */
};

/* PCRE2 asks through these, so that tests can make it fail. */
static void *take(PCRE2_SIZE n, void *user)
{
    (void)user;
    return qmi_calloc(n, 1, "a pattern", NULL);
}

static void give_back(void *block, void *user)
{
    (void)user;
    qmi_free(block);
}

/* ---- compilation ---- */

static qmoe_status fail_compile(
    int code, size_t at, const char *file, qmi_error *err)
{
    PCRE2_UCHAR text[128] = "";
    if (code == PCRE2_ERROR_HEAP_FAILED || code == PCRE2_ERROR_NOMEMORY)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: a pattern");
    pcre2_get_error_message(code, text, sizeof text);
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: a pattern is no regular expression near byte %zu: %s", file, at,
        (const char *)text);
}

static qmoe_status compile(qmi_pattern *pattern, const char *expression,
    size_t n, uint32_t options, const char *file, qmi_error *err)
{
    pcre2_general_context *general =
        pcre2_general_context_create(take, give_back, NULL);
    pcre2_compile_context *context =
        general != NULL ? pcre2_compile_context_create(general) : NULL;
    int code = PCRE2_ERROR_NOMEMORY;
    PCRE2_SIZE at = 0;
    uint32_t matches_empty = 0;
    if (context != NULL) {
        pcre2_set_parens_nest_limit(context, MAX_NESTING);
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pattern->code = pcre2_compile(
            (PCRE2_SPTR)expression, n, options, &code, &at, context);
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    if (pattern->code == NULL)
        return fail_compile(code, at, file, err);
    pcre2_pattern_info(pattern->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty != 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "%s: a pattern matches the empty text", file);
    /* Without machine code, where the system forbids it, PCRE2 interprets. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    return QMOE_OK;
}

qmoe_status qmi_pattern_compile(qmi_pattern **out, const char *source,
    bool literal, const char *file, qmi_error *err)
{
    qmi_text expression = {.err = err};
    qmoe_status status = QMOE_OK;
    uint32_t options = PCRE2_UTF | PCRE2_NO_UTF_CHECK | PCRE2_UCP |
                       PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE;
    *out = NULL;
    if (literal) {
        options = PCRE2_LITERAL | PCRE2_UTF | PCRE2_NO_UTF_CHECK;
        qmi_text_bytes(&expression, source, strlen(source) + 1);
    } else {
        status = qmi_pattern_rewrite(&expression, source, file, err);
    }
    if (status == QMOE_OK && expression.failed)
        status = QMOE_E_NOMEM;
    qmi_pattern *pattern = NULL;
    if (status == QMOE_OK) {
        status = QMOE_E_NOMEM;
        pattern = qmi_calloc(1, sizeof *pattern, "a pattern", err);
    }
    if (pattern != NULL)
        status = compile(
            pattern, expression.data, expression.n - 1, options, file, err);
    qmi_free(expression.data);
    if (status == QMOE_OK)
        *out = pattern;
    else
        qmi_pattern_free(pattern);
    return status;
}

void qmi_pattern_free(qmi_pattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_code_free(pattern->code);
    qmi_free(pattern);
}

/* ---- matching ---- */

qmoe_status qmi_matcher_create(qmi_matcher **out, qmi_error *err)
{
    qmi_matcher *m = qmi_calloc(1, sizeof *m, "a matcher", err);
    *out = NULL;
    if (m == NULL)
        return QMOE_E_NOMEM;
    m->general = pcre2_general_context_create(take, give_back, NULL);
    if (m->general != NULL) {
        m->context = pcre2_match_context_create(m->general);
        m->data = pcre2_match_data_create(1, m->general);
    }
    if (m->context == NULL || m->data == NULL) {
        qmi_matcher_free(m);
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: a matcher");
    }
    pcre2_set_match_limit(m->context, MAX_STEPS);
    pcre2_set_heap_limit(m->context, MAX_HEAP_KIB);
    m->stack =
        pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, m->general);
    if (m->stack != NULL)
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
    *out = m;
    return QMOE_OK;
}

void qmi_matcher_free(qmi_matcher *matcher)
{
    if (matcher == NULL)
        return;
    pcre2_jit_stack_free(matcher->stack);
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_general_context_free(matcher->general);
    qmi_free(matcher);
}

qmoe_status qmi_pattern_next(const qmi_pattern *pattern, qmi_matcher *matcher,
    size_t *start, size_t *end, const char *text, size_t n, size_t from,
    qmi_error *err)
{
    const int code = pcre2_match(pattern->code, (PCRE2_SPTR)text, n, from,
        PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
    *start = *end = n;
    if (code == PCRE2_ERROR_NOMATCH)
        return QMOE_OK;
    if (code == PCRE2_ERROR_NOMEMORY)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: matching a pattern");
    if (code < 0) {
        PCRE2_UCHAR message[128] = "";
        pcre2_get_error_message(code, message, sizeof message);
        return qmi_fail(err, QMOE_E_INVALID,
            "the tokenizer's pattern fails on this text at byte %zu: %s", from,
            (const char *)message);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matcher->data);
    *start = range[0];
    *end = range[1];
    return QMOE_OK;
}
