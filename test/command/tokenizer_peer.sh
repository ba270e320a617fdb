#!/usr/bin/env bash
# DeepSeek-V3's tokenizer: the ids of `fathom tokenizer encode` are those of Hugging Face's own JavaScript library.
# Both come from npm (setup/npm.txt).
. "$(dirname "$0")/prelude.sh"
deps=${FM_SOURCE_DIR:?}/.deps/tokenizer
skip() { echo "SKIP command.tokenizer_peer: $1"; exit 77; }
{ [ -f "$deps/deepseek_v3.json" ] && [ -f "$deps/tokenizers.mjs" ]; } || skip "set-up could not fetch the peer from npm"
command -v node >/dev/null || skip "node is not installed"
cat >peer.mjs <<'JS'
import fs from 'fs';
const { Tokenizer } = await import(process.argv[2]);
const tokenizer = new Tokenizer(JSON.parse(fs.readFileSync(process.argv[3], 'utf8')), {});
const text = fs.readFileSync(process.argv[4], 'utf8');
console.log(tokenizer.encode(text, { add_special_tokens: false }).ids.join(','));
JS
cat >mixed.txt <<'TEXT'
Hello world! It's 12345 o'clock; don't panic...   

  def f(x):
	return x**2  # 注释
你好，世界。日本語テキスト カタカナ ひらがな 한국어
emoji: 😀👩‍👩‍👧‍👦🇩🇪 ❤️  naïve café — “quotes” ½ ٣٤٥ 1234567890
عربى русский हिन्दी ไทย
<｜begin▁of▁sentence｜>after<｜end▁of▁sentence｜><|EOT|>  	 trailing   
TEXT
printf 'lines\r\nwith\r\n\r\nreturns' >returns.txt
cat "$FM_SOURCE_DIR"/lib/base/src/json_write.c >code.txt
for text in mixed.txt returns.txt code.txt; do
    node peer.mjs "$deps/tokenizers.mjs" "$deps/deepseek_v3.json" $text >peer.txt
    "$fathom" tokenizer encode --tokenizer "$deps/deepseek_v3.json" $text >ours.txt
    cmp peer.txt ours.txt
    "$fathom" tokenizer decode --tokenizer "$deps/deepseek_v3.json" ours.txt | cmp - $text
done
# A tokenizer of our own making means the same to the peer.
"$fathom" tokenizer train --vocab 600 --out own.json code.txt
for text in mixed.txt code.txt; do
    node peer.mjs "$deps/tokenizers.mjs" own.json $text | cmp - <("$fathom" tokenizer encode --tokenizer own.json $text)
done
