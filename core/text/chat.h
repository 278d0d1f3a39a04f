/* SPDX-License-Identifier: Apache-2.0
 * Conversations as the text that a model was trained on, by the model's own
 * chat template (jinja.h). */
#ifndef QMI_CHAT_H
#define QMI_CHAT_H

#include "jinja.h"

typedef struct qmi_chat_template qmi_chat_template;

/* The template of a model's directory: the file chat_template.jinja, else
 * "chat_template" in tokenizer_config.json, which is a text or a list of
 * {name, template} of which "default" is taken.  bos_token, eos_token and the
 * like are read from tokenizer_config.json.  E_NOT_FOUND: there is none;
 * E_FORMAT, E_UNSUPPORTED: as qmi_jinja_open. */
qmoe_status qmi_chat_template_open(
    qmi_chat_template **out, const char *directory, qmi_error *err);
void qmi_chat_template_close(qmi_chat_template *template);

typedef struct qmi_chat_message {
    const char *role;    /* "system", "user", "assistant", ... */
    const char *content; /* UTF-8; NULL: none, or in `members` */
    /* NULL, or a JSON object with further members of the message: tool_calls,
     * reasoning_content, content as a list of parts. */
    const char *members;
} qmi_chat_message;

/* All zeros: a conversation without an opened answer, tools or variables. */
typedef struct qmi_chat_options {
    bool add_generation_prompt; /* end with the opening of an answer */
    const char *tools;          /* JSON list; NULL: none */
    /* JSON object of further variables, like {"enable_thinking": false};
     * NULL: none. */
    const char *variables;
    int64_t now; /* seconds since 1970 for templates that tell the date; 0: the
                    clock's */
} qmi_chat_options;

/* Renders messages [n_messages].  In the result, bytes of messages, tools and
 * variables are marked as `literal`; those of the template and of its special
 * tokens are not.  A tokenizer may find special tokens only where no byte is
 * marked: then what a user types is never one.  Release with
 * qmi_jinja_text_release.  Statuses as qmi_jinja_render: E_INVALID, when the
 * template refuses the conversation, with its words.  Threads: as many as
 * like. */
qmoe_status qmi_chat_render(const qmi_chat_template *template,
    qmi_jinja_text *out, const qmi_chat_message *messages, size_t n_messages,
    const qmi_chat_options *options, qmi_error *err);

#endif
