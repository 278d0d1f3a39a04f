/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a tokenizer file: what passes the check goes to the
 * SentencePiece library and must serve there. */
#include <string.h>

#include "alloc.h"
#include "fuzz.h"
#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char text[] = "The cat\xc3\xa9 <extra_id_0> \xef\xac\x81 ab.";
    qmi_error err = {.text = ""};
    qmi_tokenizer *tokenizer = NULL;
    char path[64];
    int fd = -1;
    fuzz_file(&fd, path, data, n_bytes);
    if (qmi_tokenizer_open_spiece(&tokenizer, path, &err) == QMOE_OK) {
        int32_t *ids = NULL;
        size_t n = 0;
        char *back = NULL;
        if (qmi_tokenizer_encode(tokenizer, &ids, &n, text, strlen(text), NULL,
                &err) == QMOE_OK &&
            qmi_tokenizer_decode(tokenizer, &back, ids, n, false, &err) ==
                QMOE_OK)
            fuzz_touch(back, strlen(back));
        qmi_free(back);
        qmi_free(ids);
    } else if (tokenizer != NULL || err.text[0] == '\0') {
        abort();
    }
    qmi_tokenizer_close(tokenizer);
    close(fd);
    return 0;
}
