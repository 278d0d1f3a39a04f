/* SPDX-License-Identifier: Apache-2.0
 * A plugin host: loads libqmoe.so, lets it work with threads, unloads it, and
 * goes on.  Threads that stay must not be left without their code.
 *
 *   unload LIBRARY MODEL */
#include <qmoe/qmoe.h>

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

typedef qmoe_status create_fn(qmoe_context **, const qmoe_context_options *);
typedef void destroy_fn(qmoe_context *);
typedef qmoe_status verify_fn(qmoe_context *, qmoe_verify_report *,
    const char *, qmoe_fault_fn *, void *);

static int use(void *library, const char *model)
{
    create_fn *create;
    destroy_fn *destroy;
    verify_fn *verify;
    *(void **)&create = dlsym(library, "qmoe_context_create");
    *(void **)&destroy = dlsym(library, "qmoe_context_destroy");
    *(void **)&verify = dlsym(library, "qmoe_verify");
    const qmoe_context_options options = {
        .size = sizeof options, .n_threads = 3};
    qmoe_context *context = NULL;
    qmoe_verify_report report;
    if (create(&context, &options) != QMOE_OK)
        return 0;
    const qmoe_status status = verify(context, &report, model, NULL, NULL);
    destroy(context);
    return status == QMOE_OK;
}

int main(int argc, char **argv)
{
    for (int i = 0; argc == 3 && i < 2; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            puts(dlerror());
            return 1;
        }
        if (!use(library, argv[2]) || dlclose(library) != 0)
            return 1;
        usleep(50000); /* threads that spin do so in their code */
    }
    return argc == 3 ? 0 : 2;
}
