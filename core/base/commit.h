/* SPDX-License-Identifier: Apache-2.0
 * Which commit this library was built from. */
#ifndef QMI_COMMIT_H
#define QMI_COMMIT_H

/* "0123456789ab", with "-dirty" when there were changes; NULL: unknown. */
const char *qmi_commit(void);

#endif
