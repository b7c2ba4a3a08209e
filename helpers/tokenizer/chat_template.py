r"""The chat template that travels with every World tokenizer: messages become the text that the model continues.

The form is BlinkDL's (ChatRWKV/API_DEMO_CHAT.py): ``User: ...``, a blank line, ``Assistant: ...``, a blank line. Blank
lines in what others say would end their turn, so there are none: ``\n{2,}`` becomes ``\n``, as BlinkDL's note on G1
asks (RWKV-LM/RWKV-v7/RWKV7-G1x-templates.txt). A line of blanks alone stays, there and here.

RWKV-7 G1 models know more. A prompt has it only if it is asked for, so that older World models get what they know:

- ``enable_thinking``, or ``thinking``: true leaves ``<think`` open at the end of the prompt; false closes an empty
  thought, without its last ``>``, which belongs to the next token. Answers then keep their blank lines.
- ``reasoning_effort``: ``low``, ``medium`` and ``high`` let it think, with ``(think a bit)``, ``(think)`` or
  ``(think a lot)`` behind the last message of the user; ``none`` and ``minimal`` are thinking off.
- ``tools``: the system's turn lists them, as signatures if those say all, or else as objects of JSON; both are forms of
  the note. Then the prompt begins the call, as there; with ``tool_choice`` ``auto`` that is left to the model, and with
  ``none`` there are no tools. ``tool_calls`` and messages of the role ``tool`` have the note's form, too.
- ``reasoning_content`` of a message, or a thought within its content, is shown behind the last message of the user. The
  note does not say what becomes of earlier thoughts; they are left out, as in other models' templates.

What the assistant says, to the blank line behind it, stands within ``generation``: this is what training counts.
"""

# It uses only what transformers.js knows, too. A text that continue_final_message marks is kept as it is: the model
# goes on where it ends, so neither its last space nor a blank line may go. With a generation prompt nothing can be so
# marked. No macro has `generation` in it, because transformers counts the characters that were written before.
CHAT_TEMPLATE = r"""{%- macro text_of(message) -%}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- elif message['content'] is defined and message['content'] is iterable -%}
    {%- for part in message['content'] -%}
      {%- if part['text'] is not string -%}
        {{- raise_exception("The World chat format has text only; each part of a content needs a text") -}}
      {%- endif -%}
      {{- part['text'] -}}
    {%- endfor -%}
  {%- elif message['content'] or not message['tool_calls'] -%}
    {{- raise_exception("The World chat format has text only; a message needs a content") -}}
  {%- endif -%}
{%- endmacro -%}

{%- macro without_blank_lines(text) -%}
  {%- for line in text.strip().replace('\r\n', '\n').split('\n') if line -%}
    {{- ('' if loop.first else '\n') + line -}}
  {%- endfor -%}
{%- endmacro -%}

{%- macro with_blank_lines(text) -%}
  {%- for part in text.strip().replace('\r\n', '\n').split('\nUser:') -%}
    {{- ('' if loop.first else '\nUser:') + (part if loop.last else part.rstrip()) -}}
  {%- endfor -%}
{%- endmacro -%}

{%- macro call_of(message) -%}
  {%- if message['tool_calls']|length > 1 -%}
    {{- raise_exception("The chat format of G1 has one function call in a turn, not several") -}}
  {%- endif -%}
  {%- set call = message['tool_calls'][0]['function'] or {} -%}
  {%- if call['name'] is not string or not (call['arguments'] is string or call['arguments'] is mapping) -%}
    {{- raise_exception("A function call needs a name, and arguments as an object or as its JSON") -}}
  {%- endif -%}
  {%- set given = call['arguments'] -%}
  {%- set written = without_blank_lines(given) if given is string else given|tojson(separators=(',', ':')) -%}
  {{- '```json\n{"name":' + call['name']|tojson + ',"arguments":' + written + '}\n```' -}}
{%- endmacro -%}

{%- macro list_of(tools) -%}
  {%- set all = namespace(short=true) -%}
  {%- for tool in tools -%}
    {%- set function = tool['function'] -%}
    {%- if function is not mapping or function['name'] is not string -%}
      {{- raise_exception("Each of the tools needs a function with a name") -}}
    {%- elif function['name']|tojson != '"' + function['name'] + '"' or ' ' in function['name'] -%}
      {{- raise_exception("The name of a tool has no blanks, quotes and line breaks") -}}
    {%- endif -%}
    {%- set schema = function['parameters'] or {} -%}
    {%- if schema is not mapping or (schema['properties'] or {}) is not mapping or schema['required'] is string -%}
      {{- raise_exception("The parameters of a tool should be a JSON schema of an object") -}}
    {%- endif -%}
    {%- if function['description'] -%}{%- set all.short = false -%}{%- endif -%}
    {%- for name, kind in (schema['properties'] or {})|items -%}
      {%- if name|tojson != '"' + name + '"' or ' ' in name or kind is not mapping -%}
        {%- set all.short = false -%}
      {%- elif kind['type'] not in ['string', 'number', 'integer', 'boolean'] -%}
        {%- set all.short = false -%}
      {%- elif kind['enum'] and (kind['enum'] is string or kind['enum'] is mapping or kind['enum'] is not iterable) -%}
        {%- set all.short = false -%}
      {%- elif kind|length != (2 if kind['enum'] else 1) -%}
        {%- set all.short = false -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endfor -%}
  {{- 'Tools:\n' + ('' if all.short else '[\n') -}}
  {%- for tool in tools -%}
    {%- set function = tool['function'] -%}
    {%- set schema = function['parameters'] or {} -%}
    {%- set properties = schema['properties'] or {} -%}
    {%- set needed = schema['required'] or [] -%}
    {%- if all.short -%}
      {{- '- ' + function['name'] + '(' -}}
      {%- for name, kind in properties|items -%}
        {{- ('' if loop.first else ', ') + name + (': ' if name in needed else '?: ') -}}
        {%- for value in kind['enum'] or [] -%}{{- ('' if loop.first else ' | ') + value|tojson -}}{%- endfor -%}
        {{- '' if kind['enum'] else kind['type'] -}}
      {%- endfor -%}
      {{- ')\n' -}}
    {%- else -%}
      {{- '{"name":' + function['name']|tojson -}}
      {%- if function['description'] -%}{{- ',"description":' + function['description']|tojson -}}{%- endif -%}
      {{- ',"arguments":' + properties|tojson(separators=(',', ':')) -}}
      {%- set told = namespace(all=needed|length == properties|length) -%}
      {%- for name, kind in properties|items -%}
        {%- if told.all and needed[loop.index0] != name -%}{%- set told.all = false -%}{%- endif -%}
      {%- endfor -%}
      {%- if not told.all -%}
        {{- ',"required":' + needed|tojson(separators=(',', ':')) -}}
      {%- endif -%}
      {{- '}\n' if loop.last else '},\n' -}}
    {%- endif -%}
  {%- endfor -%}
  {{- ('' if all.short else ']\n') + 'Return only a JSON function call.' -}}
{%- endmacro -%}

{%- set budgets = {'low': ' (think a bit)', 'medium': ' (think)', 'high': ' (think a lot)'} -%}
{%- set asked = namespace(thinking=none, suffix='', last_user=-1, tools='') -%}
{%- if reasoning_effort is defined and reasoning_effort is not none -%}
  {%- if reasoning_effort not in ['none', 'minimal', 'low', 'medium', 'high'] -%}
    {{- raise_exception("reasoning_effort should be none, minimal, low, medium or high") -}}
  {%- endif -%}
  {%- set asked.suffix = budgets[reasoning_effort] or '' -%}
  {%- set asked.thinking = asked.suffix != '' -%}
{%- endif -%}
{%- for flag in [enable_thinking|default(none), thinking|default(none)] if flag is not none -%}
  {%- if flag is not boolean -%}
    {{- raise_exception("enable_thinking and thinking should be true or false") -}}
  {%- elif asked.thinking is not none and asked.thinking != flag -%}
    {{- raise_exception("enable_thinking, thinking and reasoning_effort contradict each other; give one of them") -}}
  {%- endif -%}
  {%- set asked.thinking = flag -%}
{%- endfor -%}
{%- set choice = tool_choice|default(none) or '' -%}
{%- if choice not in ['', 'none', 'auto', 'required'] -%}
  {{- raise_exception("tool_choice should be none, auto or required") -}}
{%- elif choice == 'required' and (asked.thinking is not none or not tools) -%}
  {{- raise_exception("tool_choice required begins the call at once: give tools, and leave out thinking") -}}
{%- elif tools and (tools is string or tools is mapping) -%}
  {{- raise_exception("tools should be a list") -}}
{%- elif tools and choice != 'none' -%}
  {%- set asked.tools = list_of(tools) -%}
{%- endif -%}
{%- set of_g1 = asked.thinking is not none or asked.tools != '' -%}

{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}{%- set asked.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if asked.suffix and asked.last_user < 0 -%}
  {{- raise_exception("reasoning_effort is told to the model in a message of the user, and there is none") -}}
{%- endif -%}
{%- if asked.tools and (not messages or messages[0]['role'] not in ['system', 'developer']) -%}
  {{- 'System: ' + asked.tools + '\n\n' -}}
{%- endif -%}

{%- for message in messages -%}
  {%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
  {%- if role not in ('system', 'user', 'assistant', 'tool') -%}
    {{- raise_exception("The World chat format has the roles system, user, assistant and tool, not " + role) -}}
  {%- endif -%}
  {%- set turn = namespace(text=text_of(message), said='', shown=false, thinks=false) -%}
  {%- set turn.thought = message['reasoning_content'] or '' -%}
  {%- set marked = loop.last and not add_generation_prompt and turn.text.endswith('CONTINUE_FINAL_MESSAGE_TAG ') -%}
  {%- if role != 'assistant' -%}
    {%- set turn.said = turn.text.lstrip() if marked else without_blank_lines(turn.text) -%}
    {%- if role == 'tool' -%}
      {%- set turn.said = 'Function output:' + ('\n' if turn.said else '') + turn.said -%}
    {%- elif role == 'user' and loop.index0 == asked.last_user -%}
      {%- set turn.said = turn.said + asked.suffix -%}
    {%- elif role == 'system' and loop.first and asked.tools -%}
      {%- set turn.said = turn.said + ('\n' if turn.said else '') + asked.tools -%}
    {%- endif -%}
  {%- else -%}
    {%- set begun = turn.text.lstrip() -%}
    {%- set turn.thinks = begun.startswith('<think') -%}
    {%- if begun.startswith('<think>') and '</think>' in begun -%}
      {%- set before = begun.split('</think>')[0] -%}
      {%- set turn.thought = before[7:] -%}
      {%- set turn.text = begun[before|length + 8:] -%}
      {%- set turn.thinks = false -%}
    {%- endif -%}
    {%- set turn.thought = '' if asked.thinking is false else with_blank_lines(turn.thought) -%}
    {%- set turn.shown = loop.index0 > asked.last_user and (turn.thought or asked.thinking is not none) -%}
    {%- if marked -%}
      {%- set turn.said = turn.text.lstrip() -%}
    {%- else -%}
      {%- set turn.said = with_blank_lines(turn.text) if turn.shown or of_g1 else without_blank_lines(turn.text) -%}
    {%- endif -%}
  {%- endif -%}
  {%- if role == 'assistant' and message['tool_calls'] -%}
    {%- set turn.said = turn.said + ('\n' if turn.said else '') + call_of(message) -%}
  {%- endif -%}
  {%- if turn.shown and not turn.thinks -%}
    {%- set closed = '<think>\n' + turn.thought + ('\n' if turn.thought else '') + '</think>' -%}
    {%- set turn.said = closed + ('\n' if turn.said else '') + turn.said -%}
  {%- endif -%}
  {%- set space = '' if turn.said.startswith('CONTINUE_FINAL_MESSAGE_TAG') else ' ' -%}
  {{- ('User' if role == 'tool' else role.capitalize()) + ':' -}}
  {%- if role == 'assistant' -%}
    {%- generation -%}{{- space + turn.said + '\n\n' -}}{%- endgeneration -%}
  {%- else -%}
    {{- space + turn.said + '\n\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- 'Assistant:' -}}
  {%- if asked.thinking -%}
    {{- ' <think' -}}
  {%- elif asked.thinking is false -%}
    {{- ' <think>\n</think' -}}
  {%- elif asked.tools and choice != 'auto' -%}
    {{- ' ```json' -}}
  {%- endif -%}
{%- endif -%}
"""
