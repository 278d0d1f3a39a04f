/* SPDX-License-Identifier: Apache-2.0 */
#include "commit.h"

#include <stddef.h>
#include <string.h>

#include "qmoe_commit.h"

const char *qmi_commit(void)
{
    static const char commit[] = QMOE_COMMIT;
    return strcmp(commit, "unknown") != 0 ? commit : NULL;
}
