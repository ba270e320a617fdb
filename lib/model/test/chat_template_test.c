/*
 * The templates of DeepSeek-V2, V3, R1 and V3.1 (the last two MIT-licensed; they are data here), and small ones for each
 * construct. The expected texts were made by Jinja2 3.1.6 with trim_blocks and lstrip_blocks, as Hugging Face sets them.
 */
#include "fm_test.h"

#include "fathom/chat.h"
#include "fathom/file.h"

static const char template_v2[] =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false "
    "%}{% endif %}{{ bos_token }}{% for message in messages %}{% if message['role'] == "
    "'user' %}{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' "
    "%}{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' "
    "%}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt "
    "%}{{ 'Assistant:' }}{% endif %}";
static const char template_v3[] =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false "
    "%}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, "
    "system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] "
    "== 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + "
    "message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt "
    "= ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor "
    "%}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] "
    "== 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif "
    "%}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool "
    "= false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<｜Assistant｜>"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + "
    "tool['function']['name'] "
    "+ '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>"
    "'}}{%- set ns.is_first = true -%}{%- else %}{{'\n' + '<｜tool▁call▁begin｜>' + tool['type'] "
    "+ '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] "
    "+ '\n' + '```' + '<｜tool▁call▁end｜>'}}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- "
    "endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] "
    "is not none %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + "
    "'<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{{'<｜Assistant｜>' "
    "+ message['content'] + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- if message['role'] "
    "== 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜tool▁outputs▁begin｜>"
    "<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>'}}{%- set ns.is_output_first "
    "= false %}{%- else %}{{'\n<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>"
    "'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>"
    "'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜>'}}"
    "{% endif %}";
static const char template_r1[] =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false "
    "%}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, "
    "system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] "
    "== 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + "
    "message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt "
    "= ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor "
    "%}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] "
    "== 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif "
    "%}{%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool "
    "= false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<｜Assistant｜>"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + "
    "tool['function']['name'] "
    "+ '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>"
    "'}}{%- set ns.is_first = true -%}{%- else %}{{'\n' + '<｜tool▁call▁begin｜>' + tool['type'] "
    "+ '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] "
    "+ '\n' + '```' + '<｜tool▁call▁end｜>'}}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- "
    "endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] "
    "is not none %}{%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + "
    "'<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] "
    "%}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% "
    "endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif "
    "%}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first "
    "%}{{'<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>"
    "'}}{%- set ns.is_output_first = false %}{%- else %}{{'\n<｜tool▁output▁begin｜>' + message['content'] "
    "+ '<｜tool▁output▁end｜>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}"
    "{{'<｜tool▁outputs▁end｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool "
    "%}{{'<｜Assistant｜><think>\\n'}}{% endif %}";
static const char template_v31[] =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false "
    "%}{% endif %}{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true, "
    "is_last_user=false, is_only_sys=false, is_prefix=false) %}{%- for message in messages "
    "%}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt "
    "= ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else "
    "%}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- "
    "endif %}{% set ns.is_only_sys = true %}{%- endif %}{%- endfor %}{{ bos_token }}{{ "
    "ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' "
    "%}{%- set ns.is_tool = false -%}{%- set ns.is_first = false -%}{%- set ns.is_last_user "
    "= true -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == "
    "'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not "
    "none %}{%- if ns.is_last_user or ns.is_only_sys %}{{'<｜Assistant｜></think>'}}{%- endif "
    "%}{%- set ns.is_last_user = false -%}{%- set ns.is_first = false %}{%- set ns.is_tool "
    "= false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{%- if "
    "message['content'] is none %}{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] "
    "+ '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>'}}{%- else %}"
    "{{message['content'] + '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] "
    "+ '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>'}}{%- endif "
    "%}{%- set ns.is_first = true -%}{%- else %}{{'<｜tool▁call▁begin｜>'+ tool['function']['name'] "
    "+ '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>'}}{%- endif "
    "%}{%- endfor %}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- endif %}{%- if message['role'] "
    "== 'assistant' and (message['tool_calls'] is not defined or message['tool_calls'] "
    "is none) %}{%- if ns.is_last_user %}{{'<｜Assistant｜>'}}{%- if message['prefix'] is "
    "defined and message['prefix'] and thinking %}{{'<think>'}}{%- else %}{{'</think>'}"
    "}{%- endif %}{%- endif %}{%- if message['prefix'] is defined and message['prefix'] "
    "%}{%- set ns.is_prefix = true -%}{%- endif %}{%- set ns.is_last_user = false -%}{%- "
    "if ns.is_tool %}{{message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = "
    "false -%}{%- else %}{%- set content = message['content'] -%}{%- if '</think>' in content "
    "%}{%- set content = content.split('</think>', 1)[1] -%}{%- endif %}{{content + '<｜end▁of▁sentence｜>"
    "'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_last_user "
    "= false -%}{%- set ns.is_tool = true -%}{{'<｜tool▁output▁begin｜>' + message['content'] "
    "+ '<｜tool▁output▁end｜>'}}{%- endif %}{%- if message['role'] != 'system' %}{% set ns.is_only_sys "
    "= false %}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool%}"
    "{% if ns.is_last_user or ns.is_only_sys or not ns.is_prefix %}{{'<｜Assistant｜>'}}{%- "
    "if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}{%- endif %}{% endif %}{% "
    "endif %}";
static const char messages_tools[] =
    "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"system\", \"content\": "
    "\"Be kind.\"}, {\"role\": \"user\", \"content\": \"Weather in Łódź?\"}, {\"role\": "
    "\"assistant\", \"content\": null, \"tool_calls\": [{\"type\": \"function\", \"function\": "
    "{\"name\": \"weather\", \"arguments\": \"{\\\"city\\\": \\\"Łódź\\\"}\"}}, {\"type\": "
    "\"function\", \"function\": {\"name\": \"time\", \"arguments\": \"{}\"}}]}, {\"role\": "
    "\"tool\", \"content\": \"rain\"}, {\"role\": \"tool\", \"content\": \"12:00\"}, {\"role\": "
    "\"assistant\", \"content\": \"<think>easy</think>Rain.\"}, {\"role\": \"user\", \"content\": "
    "\"Thanks\\n{{ bos_token }}\"}]";
static const char messages_plain[] =
    "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"system\", \"content\": "
    "\"Be kind.\"}, {\"role\": \"user\", \"content\": \"Weather in Łódź?\"}, {\"role\": "
    "\"assistant\", \"content\": \"<think>easy</think>Rain.\"}, {\"role\": \"user\", \"content\": "
    "\"Thanks\\n{{ bos_token }}\"}]";
static const char messages_only[] = "[{\"role\": \"system\", \"content\": \"S\"}]";
static const char extra[] =
    "{\"extra\": {\"real\": 1.5, \"big\": 1e+22, \"neg\": -0.25, \"list\": [1, \"ü\", null, "
    "true, {\"a\": \"\\\"\\\\\\n\\u0001\"}], \"empty\": {}, \"none\": []}}";
static const struct {
    const char *template, *messages;
    int generate, thinking;
    const char *text;
} models[] = {
    {template_v2, messages_plain, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.\n\nUser: Weather in Łódź?\n\nAssistant: "
     "<think>easy</think>Rain.<｜end▁of▁sentence｜>User: Thanks\n{{ bos_token }}\n\nAssistant:"},
    {template_v2, messages_plain, 0, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.\n\nUser: Weather in Łódź?\n\nAssistant: "
     "<think>easy</think>Rain.<｜end▁of▁sentence｜>User: Thanks\n{{ bos_token }}\n\n"},
    {template_v2, messages_only, 1, 0, "<｜begin▁of▁sentence｜>S\n\nAssistant:"},
    {template_v3, messages_tools, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in "
     "Łódź?<｜Assistant｜><｜tool▁calls▁begin｜>"
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": "
     "\"Łódź\"}\n```<｜tool▁call▁end｜>"
     "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>"
     "<｜end▁of▁sentence｜><｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>rain<｜tool▁output▁end｜>"
     "\n<｜tool▁output▁begin｜>12:00<｜tool▁output▁end｜><｜tool▁outputs▁end｜><think>easy</think>"
     "Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜>"},
    {template_v3, messages_plain, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜><think>"
     "easy</think>Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜>"},
    {template_v3, messages_plain, 0, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜><think>"
     "easy</think>Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}"},
    {template_v3, messages_only, 1, 0, "<｜begin▁of▁sentence｜>S<｜Assistant｜>"},
    {template_r1, messages_tools, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in "
     "Łódź?<｜Assistant｜><｜tool▁calls▁begin｜>"
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": "
     "\"Łódź\"}\n```<｜tool▁call▁end｜>"
     "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>"
     "<｜end▁of▁sentence｜><｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>rain<｜tool▁output▁end｜>"
     "\n<｜tool▁output▁begin｜>12:00<｜tool▁output▁end｜><｜tool▁outputs▁end｜><think>easy</think>"
     "Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜><think>\n"},
    {template_r1, messages_plain, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in "
     "Łódź?<｜Assistant｜>Rain.<｜end▁of▁sentence｜>"
     "<｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜><think>\n"},
    {template_r1, messages_plain, 0, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in "
     "Łódź?<｜Assistant｜>Rain.<｜end▁of▁sentence｜>"
     "<｜User｜>Thanks\n{{ bos_token }}"},
    {template_r1, messages_only, 1, 0, "<｜begin▁of▁sentence｜>S<｜Assistant｜><think>\n"},
    {template_v31, messages_tools, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜></think>"
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Łódź\"}<｜tool▁call▁end｜>"
     "<｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
     "<｜tool▁output▁begin｜>rain<｜tool▁output▁end｜><｜tool▁output▁begin｜>12:00<｜tool▁output▁end｜>"
     "<think>easy</think>Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜>"
     "</think>"},
    {template_v31, messages_tools, 1, 1,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜></think>"
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Łódź\"}<｜tool▁call▁end｜>"
     "<｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
     "<｜tool▁output▁begin｜>rain<｜tool▁output▁end｜><｜tool▁output▁begin｜>12:00<｜tool▁output▁end｜>"
     "<think>easy</think>Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜>"
     "<think>"},
    {template_v31, messages_plain, 1, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜></think>"
     "Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜></think>"},
    {template_v31, messages_plain, 0, 0,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜></think>"
     "Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}"},
    {template_v31, messages_plain, 1, 1,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜></think>"
     "Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}<｜Assistant｜><think>"},
    {template_v31, messages_plain, 0, 1,
     "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>Weather in Łódź?<｜Assistant｜></think>"
     "Rain.<｜end▁of▁sentence｜><｜User｜>Thanks\n{{ bos_token }}"},
    {template_v31, messages_only, 1, 0, "<｜begin▁of▁sentence｜>S<｜Assistant｜></think>"},
    {template_v31, messages_only, 1, 1, "<｜begin▁of▁sentence｜>S<｜Assistant｜><think>"},
};
static const struct {
    const char *template, *text;
} small[] = {
    {"a\n{% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"},
    {"{{ 1 }}\n{{ 2 }}\n\n", "1\n2\n"},
    {"x   {%- if true -%}   y   {%- endif -%}   z", "xyz"},
    {"  {# c #}  \nq", "  \nq"},
    {"{{ 'a' ~ 1 ~ true ~ none }}", "a1TrueNone"},
    {"{% for m in messages %}{{ loop.index0 }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length "
     "}};{% endfor %}",
     "01TrueFalse5;12FalseFalse5;23FalseFalse5;34FalseFalse5;45FalseTrue5;"},
    {"{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "222221"},
    {"{% set x = 1 %}{% if true %}{% set x = 5 %}{% endif %}{{ x }}", "5"},
    {"{{ messages[0].role }}{{ messages[-1]['role'] }}{{ messages[9] is defined }}{{ nothing }}",
     "systemuserFalse"},
    {"{{ 'a,b,c'.split(',')[1] }}{{ 'a,b,c'.split(',',1)[-1] }}{{ 'abc'.startswith('ab') }}{{ "
     "'abc'.endswith('ab') }}",
     "bb,cTrueFalse"},
    {"{{ '  a '.strip() }}|{{ '  a '.rstrip() }}|{{ ' a ' | trim }}|{{ 'żó' | length }}|{{ messages | length "
     "}}",
     "a|  a|a|2|5"},
    {"{{ messages[0] | tojson }}", "{\"role\": \"system\", \"content\": \"Be brief.\"}"},
    {"{{ extra | tojson }}", "{\"real\": 1.5, \"big\": 1e+22, \"neg\": -0.25, \"list\": [1, \"ü\", null, "
                             "true, {\"a\": \"\\\"\\\\\\n\\u0001\"}], \"empty\": {}, \"none\": []}"},
    {"{{ 'b' if false else 'c' }}{{ 'b' if false }}{{ not false and true or false }}", "cTrue"},
    {"{{ 'a' in 'abc' }}{{ 'z' not in 'abc' }}{{ 'role' in messages[0] }}{{ not 'x' in messages[0] }}",
     "TrueTrueTrueTrue"},
    {"{{ 1 < 2 }}{{ 2 <= 1 }}{{ 'a' > 'b' }}{{ 3 >= 3 }}{{ none == none }}", "TrueFalseFalseTrueTrue"},
    {"{{ messages is iterable }}{{ messages[0] is mapping }}{{ 'x' is string }}{{ 3 is number }}{{ true is "
     "true }}{{ none is none }}{{ nope is undefined }}",
     "TrueTrueTrueTrueTrueTrueTrue"},
    {"{{ 5 - 2 - 1 }}{{ -3 + 5 }}", "22"},
    {"{% if false %}a{% elif 0 %}b{% elif '' %}c{% else %}d{% endif %}", "d"},
    {"{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ "
     "ns.other is defined }}",
     "5False"},
    {"{{ 'a\\n\\t\\\\\\'b' }}", "a\n\t\\'b"},
    {"{% for k in messages[0] %}{{ k }},{% endfor %}", "role,content,"},
    {"{% for k in nope %}x{% endfor %}y", "y"},
    {"{{ 'a' + ('b' if true else 'c') }}", "ab"},
    {"{{ messages[0]['role'] == 'system' and messages[1].content == 'Be kind.' }}", "True"},
    {"{{ (1) if false else 3 }}", "3"},
    {"{{ '}}' }}{{ \"%}\" }}", "}}%}"},
    {"text only", "text only"},
    {"", ""},
    {"\n", ""},
    {"{{ 'x' }}\n", "x"},
    {"{%- set a = 'q' -%}\n{{ a }}", "q"},
    {"a {{- 'b' -}} c", "abc"},
    {"{% if true -%}\n\n  x\n{%- endif %}", "x"},
};

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"

static fm_status render(const char *template, const char *messages, const char *variables, int generate,
                        char **out_text)
{
    fm_chat *chat;
    fm_doc *conversation, *doc = NULL;
    size_t length;
    FM_TRY(fm_model_chat_parse(template, strlen(template), "t", BOS, EOS, &chat));
    fm_status status = fm_base_doc_parse_json(messages, strlen(messages), "messages", &conversation);
    if (status < 0)
        goto close;
    if (variables && (status = fm_base_doc_parse_json(variables, strlen(variables), "variables", &doc)) < 0)
        goto free;
    status = fm_model_chat_render(chat, conversation, doc, generate, out_text, &length);
    fm_base_doc_free(doc);
free:
    fm_base_doc_free(conversation);
close:
    fm_model_chat_close(chat);
    return status;
}

static void real_templates_give_their_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char *text;
        assert_ok(render(models[i].template, models[i].messages,
                         models[i].thinking ? "{\"thinking\": true}" : NULL, models[i].generate, &text));
        assert_string_equal(text, models[i].text);
        fm_base_mem_free(text);
    }
}

static void each_construct_is_jinjas(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        char *text;
        if (render(small[i].template, messages_plain, extra, 1, &text) < 0)
            fail_msg("%s: %s", small[i].template, fm_error_message());
        assert_string_equal(text, small[i].text);
        fm_base_mem_free(text);
    }
}

static void other_constructs_are_named(void **state)
{
    static const struct {
        const char *template;
        fm_status status;
        const char *message;
    } cases[] = {
        {"a\n{% macro f() %}", FM_ERR_UNSUPPORTED, "t:2: the statement 'macro' is not supported"},
        {"{{ a | upper }}", FM_ERR_UNSUPPORTED, "the filter 'upper'"},
        {"{{ a.items() }}", FM_ERR_UNSUPPORTED, "the method 'items'"},
        {"{{ raise_exception('x') }}", FM_ERR_UNSUPPORTED, "the function 'raise_exception'"},
        {"{{ a is odd }}", FM_ERR_UNSUPPORTED, "the test 'odd'"},
        {"{{ a[1:] }}", FM_ERR_UNSUPPORTED, "slices"},
        {"{{ [1] }}", FM_ERR_UNSUPPORTED, "the sign '['"},
        {"{{ 2 * 3 }}", FM_ERR_UNSUPPORTED, "'*'"},
        {"{% for a, b in c %}{% endfor %}", FM_ERR_UNSUPPORTED, "pairs"},
        {"{% for a in b if c %}{% endfor %}", FM_ERR_UNSUPPORTED, "'if' in a 'for'"},
        {"{% for a in b %}{% else %}{% endfor %}", FM_ERR_FORMAT, "endfor is missing"},
        {"{% set a %}x{% endset %}", FM_ERR_UNSUPPORTED, "'set' with a body"},
        {"{% if a %}", FM_ERR_FORMAT, "endif is missing"},
        {"{% endif %}", FM_ERR_FORMAT, "'endif' has nothing to end"},
        {"{{ 'a }}", FM_ERR_FORMAT, "a text is not ended"},
        {"{{ a", FM_ERR_FORMAT, "a tag is not ended by '}}'"},
        {"{# a", FM_ERR_FORMAT, "a comment is not ended"},
        {"{{ 1.5 }}", FM_ERR_UNSUPPORTED, "numbers with a point"},
        {"{{ '\\x41' }}", FM_ERR_UNSUPPORTED, "the escape \\x"},
        {"{{ }}", FM_ERR_FORMAT, "a value is missing"},
        {"{{ 1 < 2 < 3 }}", FM_ERR_UNSUPPORTED, "chains of comparisons"},
        {"\n\n{{ 'a' + none }}", FM_ERR_ARG, "t:3: text + none"},
        {"{{ nope.member }}", FM_ERR_ARG, "'nope' is undefined"},
        {"{% set messages.x = 1 %}", FM_ERR_ARG, "'messages' is a list"},
        {"{% for a in 5 %}{% endfor %}", FM_ERR_ARG, "'for' over a number"},
        {"{{ messages }}", FM_ERR_ARG, "a list where text is expected"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text;
        assert_fails(render(cases[i].template, messages_plain, NULL, 1, &text), cases[i].status,
                     cases[i].message);
    }
}

static void work_and_depth_are_bounded(void **state)
{
    char deep[4096] = "{{ ", *text;
    (void)state;
    for (int i = 0; i < 200; i++)
        strcat(deep, "(");
    assert_fails(render(deep, "[]", NULL, 1, &text), FM_ERR_LIMIT, "nested more than");
    deep[0] = 0;
    for (int i = 0; i < 60; i++)
        strcat(deep, "{% if true %}");
    assert_fails(render(deep, "[]", NULL, 1, &text), FM_ERR_LIMIT, "statements are nested");
    deep[0] = 0;
    for (int i = 0; i < 24; i++)
        strcat(deep, "{% for m in messages %}");
    for (int i = 0; i < 24; i++)
        strcat(deep, "{% endfor %}");
    assert_fails(render(deep, "[1,2,3,4]", NULL, 1, &text), FM_ERR_LIMIT, "more than");
    assert_fails(
        render("{% set n = namespace(t='0123456789abcdef') %}{% for a in messages %}{% for b in messages %}"
               "{% set n.t = n.t + n.t %}{% endfor %}{% endfor %}",
               "[1,2,3,4,5,6]", NULL, 1, &text),
        FM_ERR_LIMIT, "bytes of text");
}

static fm_status render_v3(void *context)
{
    char *text = NULL;
    (void)context;
    fm_status status = render(template_v3, messages_tools, NULL, 1, &text);
    fm_base_mem_free(text);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(render_v3, NULL);
}

static void directories_are_read(void **state)
{
    static const char with[] = "{\"bos_token\": {\"content\": \"<b>\"}, \"eos_token\": null, "
                               "\"chat_template\": [{\"name\": \"tool\", \"template\": \"no\"}, "
                               "{\"name\": \"default\", \"template\": \"{{ bos_token }}{{ eos_token }}x\"}]}";
    fm_chat *chat;
    char *text;
    size_t length;
    (void)state;
    fm_test_file("tokenizer_config.json", with, strlen(with));
    assert_ok(fm_model_chat_open(fm_test_tmpdir(), &chat));
    assert_ok(fm_model_chat_render(chat, NULL, NULL, 0, &text, &length));
    assert_string_equal(text, "<b>x");
    assert_int_equal(length, 4);
    fm_base_mem_free(text);
    fm_model_chat_close(chat);
    fm_test_file("tokenizer_config.json", "{}", 2);
    assert_fails(fm_model_chat_open(fm_test_tmpdir(), &chat), FM_ERR_NOT_FOUND, "has neither");
    fm_test_file("chat_template.jinja", "y", 1);
    assert_ok(fm_model_chat_open(fm_test_tmpdir(), &chat));
    fm_model_chat_close(chat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_templates_give_their_texts),
        cmocka_unit_test(each_construct_is_jinjas),
        cmocka_unit_test(other_constructs_are_named),
        cmocka_unit_test(work_and_depth_are_bounded),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(directories_are_read),
    };
    return fm_test_run("chat_template", tests);
}
