/* SPDX-License-Identifier: Apache-2.0
 * The commit that this build was made from, written by the build (cmake); NULL
 * when it is unknown, such as in a source archive. */
#include "commit.h"

#include <stddef.h>
#include <string.h>

#include "qmoe_commit.h"

const char *qmi_commit(void)
{
    static const char commit[] = QMOE_COMMIT;
    return strcmp(commit, "unknown") != 0 ? commit : NULL;
}
