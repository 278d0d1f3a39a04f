/* SPDX-License-Identifier: Apache-2.0
 * Runs a fuzz target on every file of the folders given: how the corpus is
 * replayed by builds without libFuzzer. */
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static void replay(const char *path)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &info) != 0)
        abort();
    size_t n_bytes = (size_t)info.st_size;
    uint8_t *data = malloc(n_bytes == 0 ? 1 : n_bytes);
    if (data == NULL || fread(data, 1, n_bytes, file) != n_bytes)
        abort();
    fclose(file);
    LLVMFuzzerTestOneInput(data, n_bytes);
    free(data);
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        DIR *directory = opendir(argv[i]);
        const struct dirent *item = NULL;
        while (directory != NULL && (item = readdir(directory)) != NULL) {
            char path[1024];
            snprintf(path, sizeof path, "%s/%s", argv[i], item->d_name);
            if (item->d_name[0] == '.')
                continue;
            replay(path);
            n++;
        }
        if (directory != NULL)
            closedir(directory);
    }
    printf("%d inputs\n", n);
    return n == 0;
}
