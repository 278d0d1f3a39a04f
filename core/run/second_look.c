/* SPDX-License-Identifier: Apache-2.0
 * Comes in: a pass whose result is not finite.  Goes out: an error that names
 * the step where values stop being finite.  Passes check their results only;
 * here the pass is run again, with a look at what every step writes. */
#include "second_look.h"

#include "step_check.h"
#include "steps.h"

static qmoe_status look(qmoe_session *s, const qmi_batch *batch, qmi_error *err)
{
    qmi_pass pass;
    QMI_TRY(qmi_session_encode_pass(s, err));
    QMI_TRY(qmi_session_prepare_decoder(s, &pass, batch, err));
    return qmi_session_run_program(s, &pass, err);
}

qmoe_status qmi_session_find_fault(
    qmoe_session *session, const qmi_batch *batch, qmi_error *err)
{
    /* The pass had counted its tokens; it is to be repeated where it was. */
    for (size_t i = 0; i < batch->n; i++)
        session->sequences[batch->sequences[i]].position -= batch->lengths[i];
    /* Reads back what every step writes: slow, and only here. */
    qmi_probe probe = qmi_step_check();
    qmi_probe_attach(session, &probe);
    qmoe_status status = look(session, batch, err);
    qmi_probe_detach(session, &probe);
    if (status != QMOE_OK)
        /* The step at fault, or what went wrong in looking for it. */
        return status;
    return qmi_fail(err, QMOE_E_DEVICE,
        "%s: logits are not finite, but are when computed again: device '%s' "
        "is at fault",
        qmi_checkpoint_directory(session->model->checkpoint),
        session->stage.info.name);
}
