# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# Conversations: turns, commands, pipes, what users type, signals.

# The embedded model with a template: what it was trained on has none.
make_speaker() {
    local file
    mkdir -p speaker
    for file in config.json generation_config.json model.safetensors \
        tokenizer.json tokenizer_config.json; do
        ln -sf "$source_dir/models/moe-mini/$file" speaker/
    done
    cat >speaker/chat_template.jinja <<'JINJA'
{%- for m in messages %}
{%- if m.role == 'critic' %}{{ raise_exception('no critics') }}{% endif %}
{{- '<|endoftext|>' + m.role + ': ' + m.content + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}
JINJA
}

# talk LINES...: each is a turn; options in $options.
talk() {
    printf '%s\n' "$@" >turns
    # shellcheck disable=SC2086 # words of options
    "$qmoe" chat speaker --max-new-tokens 8 ${options-} <turns >out 2>err ||
        fail "chat: $(cat err)"
}

case_chat_takes_turns() {
    make_speaker
    talk "In the beginning"
    [ "$(wc -l <out)" -ge 1 ] || fail "no answer"
    mv out first
    talk "In the beginning" "And then"
    head -n "$(wc -l <first)" out | cmp -s - first || fail "first answer"
    [ "$(wc -l <out)" -gt "$(wc -l <first)" ] || fail "no second answer"
    # Without what came before, the same turn has the first answer.
    talk "In the beginning" "/reset" "In the beginning"
    cat first first >twice
    same twice out
    # A message of the system changes it.
    options="--system Speak" talk "In the beginning"
    mv out system
    ! cmp -s system first || fail "--system changes nothing"
    talk "/system Speak" "In the beginning"
    same system out
    # An answer goes on from the caches: only what is new is read.
    options="-v" talk "In the beginning" "And then"
    [ "$(grep -c 'tokens read' err)" = 2 ] || fail "no speeds: $(cat err)"
}

# What a user types is text: the same word as a token would end the turn.
case_chat_text_is_text() {
    make_speaker
    talk "And <|endoftext|> the LORD"
    mv out typed
    printf '{%%- for m in messages %%}{{ m.content }}{%% endfor %%}' \
        >speaker/chat_template.jinja
    printf '%s\n' "And <|endoftext|> the LORD" >turns
    "$qmoe" chat speaker --max-new-tokens 1 -v <turns >out 2>err
    # The three words of the token are read as seven pieces and more.
    n=$(sed -n 's/^qmoe: \([0-9]*\) tokens read.*/\1/p' err)
    [ "$n" -gt 8 ] || fail "'<|endoftext|>' was read as a token: $n tokens"
}

case_chat_mistakes() {
    make_speaker
    echo hello >turn
    chat_fails 3 "no chat_template" "$source_dir/models/moe-mini"
    chat_fails 5 "was not made to talk" "$mini"
    echo /nonsense >turn
    chat_fails 2 "unknown command '/nonsense'" speaker
    printf 'a\0b\n' >turn
    chat_fails 4 "a NUL byte" speaker
    printf 'a\377b\n' >turn
    chat_fails 2 "UTF-8" speaker
    echo hello >turn
    chat_fails 2 "JSON" speaker --variables "{"
    echo '{{ raise_exception("I do not talk") }}' >speaker/chat_template.jinja
    chat_fails 2 "I do not talk" speaker
}

# chat_fails CODE TEXT ARGUMENTS...: with the file `turn` as input.
chat_fails() {
    local wanted=$1 text=$2 code=0
    shift 2
    "$qmoe" chat "$@" <turn >out 2>err || code=$?
    [ "$code" = "$wanted" ] || fail "exit code $code, not $wanted: $(cat err)"
    one_error "$text"
}

# The first Ctrl-C ends an answer; the next turn has one of its own.
case_chat_signal_ends_answer() {
    make_speaker
    mkfifo input
    # Job control: otherwise the shell lets background jobs ignore SIGINT.
    set -m
    "$qmoe" chat speaker --max-new-tokens 100000 --repetition-penalty 1.05 \
        <input >out 2>err &
    local pid=$! i
    set +m
    exec 7>input
    echo "In the beginning" >&7
    for ((i = 0; i < 200; i++)); do
        [ "$(wc -c <out)" -gt 40 ] && break
        sleep 0.05
    done
    kill -INT "$pid"
    echo "/reset" >&7
    echo "/exit" >&7
    exec 7>&-
    local code=0
    wait "$pid" || code=$?
    [ "$code" = 0 ] || fail "exit code $code: $(cat err)"
    [ "$(tail -c 1 out | od -An -c | tr -d ' ')" = '\n' ] || fail "no line end"
}
