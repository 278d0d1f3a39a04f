/* SPDX-License-Identifier: Apache-2.0
 * The files of tests/hostile: each breaks one rule and must be refused with one
 * error line that says which, without memory out of proportion. */
#include "scratch.h"

#include <stdlib.h>
#include <sys/resource.h>

#include "arch_switch.h"
#include "gguf_read.h"
#include "json.h"
#include "safetensors.h"
#include "tokenizer.h"
#include "torch_file.h"

#define FOLDER QMOE_SOURCE_DIR "/tests/hostile/"

/* All files are below 200 kB. */
enum { MAX_GROWTH_KB = 64 << 10 };

static qmoe_status open_torch(const char *path, qmi_error *err)
{
    qmi_tensor_file *file = NULL;
    qmoe_status status = qmi_torch_open(&file, path, err);
    qmi_tensor_file_close(file);
    return status;
}

static qmoe_status open_safetensors(const char *path, qmi_error *err)
{
    qmi_tensor_file *file = NULL;
    qmoe_status status = qmi_safetensors_open(&file, path, err);
    qmi_tensor_file_close(file);
    return status;
}

static qmoe_status open_json(const char *path, qmi_error *err)
{
    cJSON *tree = NULL;
    qmoe_status status = qmi_json_load(&tree, path, err);
    cJSON_Delete(tree);
    return status;
}

static qmoe_status open_config(const char *path, qmi_error *err)
{
    cJSON *tree = NULL;
    qmi_switch config;
    qmoe_status status = qmi_json_load(&tree, path, err);
    if (status == QMOE_OK)
        status = qmi_switch_configure(&config, tree, path, err);
    cJSON_Delete(tree);
    return status;
}

static qmoe_status open_spiece(const char *path, qmi_error *err)
{
    qmi_tokenizer *tokenizer = NULL;
    qmoe_status status = qmi_tokenizer_open_spiece(&tokenizer, path, err);
    qmi_tokenizer_close(tokenizer);
    return status;
}

static const struct {
    const char *name;
    qmoe_status (*open)(const char *path, qmi_error *err);
} readers[] = {
    {"torch/", open_torch},
    {"safetensors/", open_safetensors},
    {"json/", open_json},
    {"config/", open_config},
    {"spiece/", open_spiece},
    {"gguf/", gguf_read},
};
enum { N_READERS = sizeof readers / sizeof *readers };

/* 1 when the file was not refused as it should be. */
static int not_refused(size_t reader, const char *name, const char *part)
{
    qmi_error err = {.text = ""};
    char path[600];
    snprintf(path, sizeof path, FOLDER "%s", name);
    qmoe_status status = readers[reader].open(path, &err);
    if ((status == QMOE_E_FORMAT || status == QMOE_E_UNSUPPORTED) &&
        strstr(err.text, part) != NULL && strstr(err.text, name) != NULL &&
        strchr(err.text, '\n') == NULL &&
        readers[reader].open(path, NULL) == status)
        return 0;
    print_error("%s: %s, '%s' is not in: %s\n", name, qmoe_status_name(status),
        part, err.text);
    return 1;
}

static void refuses_every_file(void **state)
{
    (void)state;
    int counts[N_READERS] = {0}, n_wrong = 0;
    char line[512];
    FILE *list = fopen(FOLDER "expected.txt", "r");
    assert_non_null(list);
    while (fgets(line, sizeof line, list) != NULL) {
        char *part = strchr(line, '\t');
        assert_non_null(part);
        *part++ = '\0';
        part[strcspn(part, "\n")] = '\0';
        for (size_t i = 0; i < N_READERS; i++) {
            if (strncmp(line, readers[i].name, strlen(readers[i].name)) != 0)
                continue;
            n_wrong += not_refused(i, line, part);
            counts[i]++;
        }
    }
    fclose(list);
    assert_int_equal(n_wrong, 0);
    for (size_t i = 0; i < N_READERS; i++)
        assert_true(counts[i] >= 10);
}

static void takes_little_memory(void **state)
{
    (void)state;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    refuses_every_file(state);
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < MAX_GROWTH_KB);
}

int main(void)
{
    /* The first to run is the one that can grow. */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_little_memory),
        cmocka_unit_test(refuses_every_file),
    };
    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
