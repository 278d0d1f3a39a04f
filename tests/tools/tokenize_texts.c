/* SPDX-License-Identifier: Apache-2.0
 * Usage: tokenize_texts [--frame] DIRECTORY < TEXTS > RESULTS
 * Encodes and decodes texts with the tokenizer of a directory, to be compared
 * with another program.  In: texts, each behind its length.  Out: for each
 * the number of ids, the ids, the length and bytes of the text without special
 * tokens, and of that with them.  All numbers are 32 bits, little-endian.
 * Fails if a stream gives another text than decoding all at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "token_stream.h"

static void check(qmoe_status status, const qmi_error *err)
{
    if (status == QMOE_OK)
        return;
    fprintf(stderr, "tokenize_texts: %s\n", err->text);
    exit(1);
}

static void put_text(const char *text)
{
    const uint32_t n = (uint32_t)strlen(text);
    fwrite(&n, sizeof n, 1, stdout);
    fwrite(text, 1, n, stdout);
}

static void check_stream(const qmi_tokenizer *tokenizer, const int32_t *ids,
    size_t n, const char *expected)
{
    qmi_error err = {0};
    qmi_token_stream *stream = NULL;
    const char *at = expected;
    check(qmi_token_stream_create(&stream, tokenizer, &err), &err);
    for (size_t i = 0; i < n; i++) {
        const char *text = NULL;
        check(qmi_token_stream_add(stream, &text, ids[i], i + 1 == n, &err),
            &err);
        if (strncmp(at, text, strlen(text)) != 0) {
            fprintf(stderr, "tokenize_texts: a stream differs\n");
            exit(1);
        }
        at += strlen(text);
    }
    qmi_token_stream_destroy(stream);
    if (*at != '\0') {
        fprintf(stderr, "tokenize_texts: a stream lacks text\n");
        exit(1);
    }
}

static void run(
    const qmi_tokenizer *tokenizer, const char *text, size_t n, bool frame)
{
    const qmi_encode_options options = {.frame = frame};
    qmi_error err = {0};
    int32_t *ids = NULL;
    size_t n_ids = 0;
    char *plain = NULL, *all = NULL;
    check(
        qmi_tokenizer_encode(tokenizer, &ids, &n_ids, text, n, &options, &err),
        &err);
    check(
        qmi_tokenizer_decode(tokenizer, &plain, ids, n_ids, false, &err), &err);
    check(qmi_tokenizer_decode(tokenizer, &all, ids, n_ids, true, &err), &err);
    check_stream(tokenizer, ids, n_ids, plain);
    const uint32_t count = (uint32_t)n_ids;
    fwrite(&count, sizeof count, 1, stdout);
    fwrite(ids, sizeof *ids, n_ids, stdout);
    put_text(plain);
    put_text(all);
    qmi_free(ids);
    qmi_free(plain);
    qmi_free(all);
}

int main(int argc, char **argv)
{
    const bool frame = argc == 3 && strcmp(argv[1], "--frame") == 0;
    qmi_error err = {0};
    qmi_tokenizer *tokenizer = NULL;
    uint32_t n = 0;
    if (argc != 2 && !frame) {
        fprintf(stderr, "usage: tokenize_texts [--frame] DIRECTORY\n");
        return 2;
    }
    check(qmi_tokenizer_open_directory(&tokenizer, argv[argc - 1], &err), &err);
    if (tokenizer == NULL) {
        fprintf(stderr, "tokenize_texts: no tokenizer\n");
        return 1;
    }
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        char *text = malloc(n + 1);
        if (text == NULL || fread(text, 1, n, stdin) != n)
            return 1;
        run(tokenizer, text, n, frame);
        free(text);
    }
    qmi_tokenizer_close(tokenizer);
    return fflush(stdout) == 0 ? 0 : 1;
}
