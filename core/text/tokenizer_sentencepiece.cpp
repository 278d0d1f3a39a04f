/* SPDX-License-Identifier: Apache-2.0
 * In: a spiece.model of T5, text, ids.  Out: ids, text.  Every entry point
 * catches all exceptions: none may reach the C callers.  T5's added tokens, the
 * sentinels <extra_id_k>, are handled here, everything else is
 * SentencePiece's. */
#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <sentencepiece_processor.h>

extern "C" {
#include "alloc.h"
#include "map.h"
#include "spiece_check.h"
#include "tokenizer_type.h"
}

namespace sentencepiece
{
namespace logging
{
/* Exported by the library, but not declared in its public header; weak so
 * that a release without it still links (and then writes its log lines). */
__attribute__((weak)) void SetMinLogLevel(int level);
} // namespace logging
} // namespace sentencepiece

namespace
{

struct spiece : qmi_tokenizer {
    sentencepiece::SentencePieceProcessor processor;
    int32_t n_pieces = 0;
    size_t max_text_bytes = 0;
};

const int N_SENTINELS = 100;

const spiece *as_spiece(const qmi_tokenizer *tokenizer)
{
    return static_cast<const spiece *>(tokenizer);
}

using std::string_view;

const size_t MAX_FILE_BYTES = 64u << 20;

/* Runs `body`, which returns a status, and turns exceptions into `otherwise`
 * (or E_NOMEM). */
template <typename Body>
qmoe_status guarded(
    qmi_error *err, qmoe_status otherwise, const char *what, const Body &body)
{
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: %s", what);
    } catch (const std::exception &e) {
        return qmi_fail(err, otherwise, "%s: %s", what, e.what());
    } catch (...) {
        return qmi_fail(err, otherwise, "%s: unknown C++ exception", what);
    }
}

/* SentencePiece and the protobuf in it crash while they unwind from a failed
 * allocation.  So none may fail inside them: when memory ends a reserve is set
 * free, the call goes on with that, and is then given up (is_spent).  A process
 * has one handler; in threads that hold no reserve it changes nothing. */
class reserve
{
  public:
    explicit reserve(size_t n_bytes)
        : outer_(current), block_(std::malloc(n_bytes)),
          before_(std::set_new_handler(spend))
    {
        current = this;
    }
    ~reserve()
    {
        current = outer_;
        std::set_new_handler(before_);
        std::free(block_);
    }
    reserve(const reserve &) = delete;
    reserve &operator=(const reserve &) = delete;
    bool is_spent() const
    {
        return block_ == nullptr;
    }

  private:
    static void spend()
    {
        if (current == nullptr || current->block_ == nullptr)
            throw std::bad_alloc();
        std::free(current->block_);
        current->block_ = nullptr;
    }
    static thread_local reserve *current;
    reserve *outer_;
    void *block_;
    std::new_handler before_;
};
thread_local reserve *reserve::current = nullptr;

/* Calls SentencePiece, which works on n_bytes, with a reserve. */
template <typename Body>
qmoe_status with_reserve(
    qmi_error *err, size_t n_bytes, const char *what, const Body &body)
{
    const size_t FIXED = 1 << 20, PER_BYTE = 16;
    reserve rest(FIXED + PER_BYTE * n_bytes);
    if (!rest.is_spent())
        QMI_TRY(body());
    if (rest.is_spent())
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: %s", what);
    return QMOE_OK;
}

/* SentencePiece writes its failures to standard error as well as returning
 * them; 3 lets only its fatal ones through.  Process-wide, once. */
void silence_library()
{
    static const bool done = [] {
        if (sentencepiece::logging::SetMinLogLevel != nullptr)
            sentencepiece::logging::SetMinLogLevel(3);
        return true;
    }();
    (void)done;
}

qmoe_status load(spiece *tokenizer, const char *data, size_t n_bytes,
    const char *path, qmi_error *err)
{
    qmi_spiece_info info;
    QMI_TRY(qmi_spiece_check(&info, data, n_bytes, path, err));
    silence_library();
    const auto status = tokenizer->processor.LoadFromSerializedProto(
        string_view(data, n_bytes));
    if (!status.ok())
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: not a usable SentencePiece model: %s", path,
            status.error_message());
    tokenizer->n_pieces = tokenizer->processor.GetPieceSize();
    if (tokenizer->n_pieces != info.n_pieces)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: %d pieces counted, but SentencePiece reads %d", path,
            (int)info.n_pieces, (int)tokenizer->n_pieces);
    tokenizer->size = tokenizer->n_pieces + N_SENTINELS;
    tokenizer->eos = tokenizer->processor.eos_id();
    tokenizer->pad = tokenizer->processor.pad_id();
    /* The library counts the bytes of normalized text in an int. */
    tokenizer->max_text_bytes =
        (size_t)(INT_MAX - 16) / (size_t)info.max_growth;
    return QMOE_OK;
}

/* ---- sentinels in text --------------------------------------------------- */

/* The characters Python's str.strip() drops, which is what the Hugging Face
 * tokenizer applies beside sentinels. */
const string_view WHITE_SPACE[] = {" ", "\t", "\n", "\v", "\f", "\r", "\x1c",
    "\x1d", "\x1e", "\x1f", "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80",
    "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83",
    "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87",
    "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
    "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

bool starts_with(string_view text, string_view part)
{
    return text.substr(0, part.size()) == part;
}

bool ends_with(string_view text, string_view part)
{
    return text.size() >= part.size() &&
           text.substr(text.size() - part.size()) == part;
}

size_t leading_space(string_view text)
{
    for (string_view space : WHITE_SPACE)
        if (starts_with(text, space))
            return space.size();
    return 0;
}

size_t trailing_space(string_view text)
{
    for (string_view space : WHITE_SPACE)
        if (ends_with(text, space))
            return space.size();
    return 0;
}

string_view strip_left(string_view text)
{
    while (size_t n = leading_space(text))
        text.remove_prefix(n);
    return text;
}

string_view strip_right(string_view text)
{
    while (size_t n = trailing_space(text))
        text.remove_suffix(n);
    return text;
}

const string_view SENTINEL_START = "<extra_id_";

/* Length of the sentinel that `text` starts with, its number in *k; 0: none.
 * Only the plain decimal form counts ("<extra_id_05>" is text). */
size_t match_sentinel(string_view text, int *k)
{
    size_t at = SENTINEL_START.size();
    size_t n_digits = 0;
    int value = 0;
    for (; at < text.size() && n_digits < 2; at++, n_digits++) {
        if (text[at] < '0' || text[at] > '9')
            break;
        value = 10 * value + (text[at] - '0');
    }
    bool padded = n_digits == 2 && value < 10;
    if (n_digits == 0 || padded || at >= text.size() || text[at] != '>')
        return 0;
    static_assert(N_SENTINELS == 100, "two digits name every sentinel");
    *k = value;
    return at + 1;
}

/* Position of the next sentinel (npos: none), its length and number.  None has
 * a byte marked in `literal` (NULL: nothing is). */
size_t find_sentinel(
    string_view text, const uint8_t *literal, size_t *length, int *k)
{
    size_t at = text.find(SENTINEL_START);
    while (at != string_view::npos) {
        *length = match_sentinel(text.substr(at), k);
        if (*length != 0 && (literal == nullptr || std::memchr(literal + at, 1,
                                                       *length) == nullptr))
            return at;
        at = text.find(SENTINEL_START, at + 1);
    }
    return at;
}

qmoe_status append_chunk(const spiece *tokenizer, std::vector<int> *ids,
    string_view chunk, qmi_error *err)
{
    std::vector<int> chunk_ids;
    if (chunk.empty())
        return QMOE_OK;
    const auto status = tokenizer->processor.Encode(chunk, &chunk_ids);
    if (!status.ok())
        return qmi_fail(
            err, QMOE_E_INTERNAL, "SentencePiece: %s", status.error_message());
    ids->insert(ids->end(), chunk_ids.begin(), chunk_ids.end());
    return QMOE_OK;
}

qmoe_status encode(const spiece *tokenizer, std::vector<int> *ids,
    string_view text, const qmi_encode_options *options, qmi_error *err)
{
    const uint8_t *literal = options->literal;
    if (text.size() > tokenizer->max_text_bytes)
        return qmi_fail(err, QMOE_E_INVALID,
            "a text of %zu bytes is too long for the tokenizer: at most %zu",
            text.size(), tokenizer->max_text_bytes);
    for (;;) {
        size_t length = 0;
        int k = 0;
        size_t at = options->all_literal
                        ? string_view::npos
                        : find_sentinel(text, literal, &length, &k);
        if (at == string_view::npos)
            return append_chunk(tokenizer, ids, text, err);
        QMI_TRY(
            append_chunk(tokenizer, ids, strip_right(text.substr(0, at)), err));
        ids->push_back(tokenizer->size - 1 - k);
        const string_view rest = strip_left(text.substr(at + length));
        if (literal != nullptr)
            literal += text.size() - rest.size();
        text = rest;
    }
}

/* ---- text from ids ------------------------------------------------------- */

/* Appends the text of a run of pieces.  SentencePiece drops the space that the
 * first piece brings; behind a sentinel it has to stay. */
qmoe_status append_run(const spiece *tokenizer, std::string *text,
    const std::vector<int> &run, qmi_error *err)
{
    const string_view space_symbol = "\xe2\x96\x81";
    if (run.empty())
        return QMOE_OK;
    std::string part;
    const auto status = tokenizer->processor.Decode(run, &part);
    if (!status.ok())
        return qmi_fail(
            err, QMOE_E_INTERNAL, "SentencePiece: %s", status.error_message());
    part.erase(std::remove(part.begin(), part.end(), '\0'), part.end());
    string_view first = tokenizer->processor.IdToPiece(run[0]);
    if (!text->empty() && starts_with(first, space_symbol))
        *text += ' ';
    *text += part;
    return QMOE_OK;
}

void append_sentinel(const spiece *tokenizer, std::string *text, int32_t id)
{
    if (!text->empty() && text->back() != ' ')
        *text += ' ';
    *text += SENTINEL_START;
    *text += std::to_string(tokenizer->size - 1 - id);
    *text += '>';
}

qmoe_status decode(const spiece *tokenizer, std::string *text,
    const int32_t *ids, size_t n, qmi_error *err)
{
    std::vector<int> run;
    for (size_t i = 0; i < n; i++) {
        /* A model's vocabulary is padded beyond the tokenizer's. */
        if (ids[i] >= tokenizer->size)
            continue;
        if (ids[i] >= tokenizer->n_pieces) {
            QMI_TRY(append_run(tokenizer, text, run, err));
            run.clear();
            append_sentinel(tokenizer, text, ids[i]);
        } else if (!tokenizer->processor.IsControl(ids[i])) {
            run.push_back(ids[i]);
        }
    }
    return append_run(tokenizer, text, run, err);
}

/* ---- the table ----------------------------------------------------------- */

void close_spiece(qmi_tokenizer *tokenizer)
{
    spiece *self = static_cast<spiece *>(tokenizer);
    self->~spiece();
    qmi_free(self);
}

int32_t spiece_id(const qmi_tokenizer *tokenizer, const char *text, size_t n)
{
    const spiece *self = as_spiece(tokenizer);
    int k = 0;
    if (starts_with(string_view(text, n), SENTINEL_START) &&
        match_sentinel(string_view(text, n), &k) == n)
        return self->size - 1 - k;
    const int id = self->processor.PieceToId(string_view(text, n));
    /* What is no piece has the id of the unknown piece. */
    return self->processor.IdToPiece(id) == string_view(text, n) ? id : -1;
}

qmi_token_kind spiece_kind(
    const qmi_tokenizer *tokenizer, int32_t id, uint8_t *byte)
{
    const spiece *self = as_spiece(tokenizer);
    if (id >= self->n_pieces)
        return QMI_TOKEN_ADDED;
    if (self->processor.IsControl(id))
        return QMI_TOKEN_CONTROL;
    if (!self->processor.IsByte(id))
        return QMI_TOKEN_PIECE;
    /* "<0x41>": the library refuses byte pieces of other names. */
    const char *digits = self->processor.IdToPiece(id).c_str() + 3;
    *byte = (uint8_t)std::strtoul(digits, nullptr, 16);
    return QMI_TOKEN_BYTE;
}

qmoe_status encode_spiece(const qmi_tokenizer *tokenizer, qmi_id_list *ids,
    const char *text, size_t n_bytes, const qmi_encode_options *options,
    qmi_error *err)
{
    return guarded(err, QMOE_E_INTERNAL, "encoding text", [&]() -> qmoe_status {
        const spiece *self = as_spiece(tokenizer);
        std::vector<int> found;
        QMI_TRY(with_reserve(err, n_bytes, "encoding text", [&] {
            return encode(
                self, &found, string_view(text, n_bytes), options, err);
        }));
        if (options->frame && self->eos >= 0)
            found.push_back(self->eos);
        return qmi_id_list_add(ids, found.data(), found.size(), err);
    });
}

qmoe_status decode_spiece(const qmi_tokenizer *tokenizer, qmi_text *text,
    const int32_t *ids, size_t n, bool, qmi_error *err)
{
    return guarded(err, QMOE_E_INTERNAL, "decoding ids", [&]() -> qmoe_status {
        std::string joined;
        QMI_TRY(with_reserve(err, n * sizeof *ids, "decoding ids", [&] {
            return decode(as_spiece(tokenizer), &joined, ids, n, err);
        }));
        qmi_text_bytes(text, joined.data(), joined.size());
        return text->failed ? QMOE_E_NOMEM : QMOE_OK;
    });
}

const qmi_tokenizer_type SPIECE = {close_spiece, spiece_id, spiece_kind,
    encode_spiece, decode_spiece, qmi_spiece_stream_create,
    qmi_spiece_stream_destroy, qmi_spiece_stream_add};

} // namespace

qmoe_status qmi_tokenizer_open_spiece(
    qmi_tokenizer **out, const char *path, qmi_error *err)
{
    *out = nullptr;
    char *data = nullptr;
    size_t n_bytes = 0;
    QMI_TRY(qmi_read_file(&data, &n_bytes, path, MAX_FILE_BYTES, err));
    spiece *tokenizer = nullptr;
    qmoe_status status = QMOE_E_NOMEM;
    void *memory = qmi_calloc(1, sizeof *tokenizer, "a tokenizer", err);
    if (memory != nullptr)
        status = guarded(err, QMOE_E_FORMAT, path, [&] {
            tokenizer = new (memory) spiece{};
            tokenizer->type = &SPIECE;
            tokenizer->bos = tokenizer->eos = tokenizer->pad = -1;
            return with_reserve(err, n_bytes, path,
                [&] { return load(tokenizer, data, n_bytes, path, err); });
        });
    qmi_free(data);
    if (status == QMOE_OK) {
        *out = tokenizer;
        return QMOE_OK;
    }
    if (tokenizer != nullptr)
        close_spiece(tokenizer);
    else
        qmi_free(memory);
    return status;
}
