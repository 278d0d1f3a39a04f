/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a tokenizer.json, a tokenizer_config.json, a tokenizer.model or a
 * tiktoken.model (the first byte says which): what opens must encode, decode
 * and stream. */
#include <string.h>

#include "alloc.h"
#include "fuzz.h"
#include "token_stream.h"
#include "tokenizer_bpe.h"
#include "tokenizer_settings.h"

/* A tokenizer to which settings are added. */
static const char PLAIN[] =
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":"
    "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},"
    "\"merges\":[]}}";

static qmoe_status open_settings(
    qmi_tokenizer **out, const char *path, qmi_error *err)
{
    char plain[64];
    int fd = -1;
    fuzz_file(&fd, plain, (const uint8_t *)PLAIN, sizeof PLAIN - 1);
    qmoe_status status = qmi_tokenizer_open_json(out, plain, err);
    close(fd);
    if (status == QMOE_OK)
        status =
            qmi_tokenizer_read_settings((qmi_bpe_tokenizer *)*out, path, err);
    if (status != QMOE_OK) {
        qmi_tokenizer_close(*out);
        *out = NULL;
    }
    return status;
}

static void use(const qmi_tokenizer *tokenizer, bool literal)
{
    static const char text[] =
        "The cat\xc3\xa9's  <|im_start|> \xef\xac\x81 a1b22\n\n\xe4\xb8\xad ab";
    const qmi_encode_options options = {.frame = true, .all_literal = literal};
    qmi_token_stream *stream = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    char *back = NULL;
    const char *part = NULL;
    if (qmi_tokenizer_encode(tokenizer, &ids, &n, text, sizeof text - 1,
            &options, NULL) != QMOE_OK)
        return;
    if (qmi_tokenizer_decode(tokenizer, &back, ids, n, false, NULL) !=
            QMOE_OK ||
        qmi_token_stream_create(&stream, tokenizer, NULL) != QMOE_OK)
        abort();
    for (size_t i = 0, at = 0; i < n; i++, at += strlen(part))
        if (qmi_token_stream_add(stream, &part, ids[i], i + 1 == n, NULL) !=
                QMOE_OK ||
            strncmp(back + at, part, strlen(part)) != 0)
            abort();
    qmi_token_stream_destroy(stream);
    qmi_free(back);
    qmi_free(ids);
}

static qmoe_status open_ranks(
    qmi_tokenizer **out, const char *path, qmi_error *err)
{
    return qmi_tokenizer_open_tiktoken(out, &qmi_tiktoken_qwen, path, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static qmoe_status (*const openers[])(qmi_tokenizer * *out,
        const char *path, qmi_error *err) = {qmi_tokenizer_open_json,
        open_settings, qmi_tokenizer_open_piece_bpe, open_ranks};
    qmi_error err = {.text = ""};
    qmi_tokenizer *tokenizer = NULL;
    char path[64];
    int fd = -1;
    if (n_bytes == 0)
        return 0;
    fuzz_file(&fd, path, data + 1, n_bytes - 1);
    if (openers[data[0] % 4](&tokenizer, path, &err) == QMOE_OK) {
        use(tokenizer, false);
        use(tokenizer, true);
    } else if (tokenizer != NULL || err.text[0] == '\0') {
        abort();
    }
    qmi_tokenizer_close(tokenizer);
    close(fd);
    return 0;
}
