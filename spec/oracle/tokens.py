"""Writes spec/fixtures/text-tokens.json: token ids as the Rust library `tokenizers` and SentencePiece give them, and a
chat template as Jinja2 renders it.

Run with a python3 that has tokenizers, sentencepiece, gguf and jinja2, and a GGUF of SmolLM2:
`python3 spec/oracle/tokens.py SmolLM2-135M-Instruct.Q4_1.gguf`. The byte-level vocabulary in the fixture is the
beginning of SmolLM2's (Apache-2.0): its first merges and what they need. The SentencePiece model is trained here, on the
project's own pages. With the whole vocabulary, only ids are written.
"""

import base64
import io
import json
import pathlib
import random
import sys

import jinja2
import sentencepiece
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

root = pathlib.Path(__file__).resolve().parents[2]
MERGES = 1200

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n  \n",
    "\r\n\t",
    "Hello, world!",
    " leading space",
    "trailing space ",
    "two  spaces   and    more",
    "What's in the photo? I'd say it's a dog; they're sure we'll see.",
    "DON'T SHOUT'S",
    "0 1 12 123 1234 12345 3.14159 1,000,000 -7",
    "٣٤٥ ½ Ⅷ ² 五 १२",
    "def f(x):\n    return x ** 2  # square\n\tif x != 0 and y<=3: {'a': [1, 2]}",
    "for (let i = 0; i < n; i++) { a[i] += `${b}`; }",
    "naïve café Ærøskøbing ŝŭ ﬁ",
    "e\u0301 vs \u00e9, \u1e9b\u0323, \u212b",
    "Привет, мир! Καλημέρα κόσμε",
    "你好，世界。今日はいい天気ですね。안녕하세요",
    "مرحبا بالعالم שלום עולם",
    "👍👨‍👩‍👧‍👦🏳️‍🌈 ok 🇫🇷🤷🏽‍♀️",
    "\U0001d54f \U00020000 \U0001f9ff",
    "zero\u200bwidth\u200d joiner\u2060 \ufeffbom",
    "nbsp\u00a0thin\u2009ideographic\u3000nel\u0085ls\u2028ps\u2029end",
    "\u0001\u0002\u0007\u0008\u001b[31m\u007f",
    "\ufffd replacement",
    "▁lower▁one▁eighth ▁ ▁▁",
    "<0x0A> <0xFF> <unk>x",
    "a" * 60,
    "aaab" * 9 + "abab" * 5,
    " " * 33 + "x" + " " * 7,
    "-" * 20 + "=" * 21 + "." * 22,
    "https://example.org/a?b=c&d=%20#e_f-g",
    "Ġ Ċ âĢĻ are letters here",
    "$1 \\1 $& costs $$",
    "\nWhat is this?",
    "USER: \nDescribe the image. ASSISTANT: A cat.",
    "__proto__ constructor toString",
]
MARKED = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c<|endoftext|>",
    "<|im_end",
    "<|im_start|><|im_start|>",
]
# What JavaScript and Rust disagree on, whether it is a space, beside what decides it.
SPACES = ["\ufeffa", "x  \ufeff\ufeff  y", "a\u0085\u0085b", "\u0085\u0085", " \u0085 a", "\n\nhi", "a\nb\n\nc", "\u00a0a"]
WORD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {
    "gpt-2": [WORD],
    "smollm": [r"\p{N}", WORD],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", WORD, r"\p{N}+", "[0-9][0-9][0-9]"],
    "llama-bpe": [LLAMA3.replace("DIGITS", r"\p{N}{1,3}")],
    "qwen2": [LLAMA3.replace("DIGITS", r"\p{N}")],
}


def byte_level(vocab, merges, specials, pre):
    """SmolLM2's own cut is written as its tokenizer.json has it, the others as patterns."""
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre == "smollm":
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        parts = [pre_tokenizers.Split(Regex(p), "isolated") for p in PRE[pre]]
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if pre == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return made


def smollm2(path):
    fields = {k: f.contents() for k, f in GGUFReader(path).fields.items() if k.startswith("tokenizer.")}
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    specials = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == 3]
    count = len(tokens) - len(merges) + MERGES
    few = dict(fields)
    few["tokenizer.ggml.tokens"] = tokens[:count]
    few["tokenizer.ggml.token_type"] = fields["tokenizer.ggml.token_type"][:count]
    few["tokenizer.ggml.merges"] = fields["tokenizer.ggml.merges"][:MERGES]
    texts = TEXTS + MARKED

    def ids(size, kept, pre):
        made = byte_level({t: i for i, t in enumerate(tokens[:size])}, kept, specials, pre)
        return [made.encode(t).ids for t in texts]

    small = byte_level({t: i for i, t in enumerate(tokens[:count])}, merges[:MERGES], specials, "smollm")
    spaced = byte_level({t: i for i, t in enumerate(tokens[:count])}, merges[:MERGES], specials, "smollm")
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return {
        "metadata": few,
        "texts": texts,
        "ids": {pre: ids(count, merges[:MERGES], pre) for pre in PRE},
        "json": shell(small),
        "spaced": {"json": shell(spaced), "texts": texts + SPACES, "ids": [spaced.encode(t).ids for t in texts + SPACES]},
        "decoded": [small.decode(small.encode(t).ids, skip_special_tokens=False) for t in texts],
        "whole": {"size": len(tokens), "ids": ids(len(tokens), merges, "smollm")},
        "chats": chats(fields["tokenizer.chat_template"], tokens[fields["tokenizer.ggml.bos_token_id"]], tokens[fields["tokenizer.ggml.eos_token_id"]]),
    }


def shell(made):
    """A tokenizer.json without its vocabulary and merges, which the fixture has elsewhere."""
    parsed = json.loads(made.to_str())
    del parsed["model"]["vocab"], parsed["model"]["merges"]
    return parsed


def chats(source, bos, eos):
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(source)
    say = lambda role, content: {"role": role, "content": content}
    lists = [
        [say("user", "Hi")],
        [say("system", "Be brief."), say("user", "Hi"), say("assistant", "Hello."), say("user", "2 < 3 & \"so\" {{ x }}?\n")],
        [say("user", "a"), say("assistant", "b")],
    ]
    return [
        {"messages": m, "open": m[-1]["role"] == "user", "text": template.render(messages=m, bos_token=bos, eos_token=eos, add_generation_prompt=m[-1]["role"] == "user")}
        for m in lists
    ]


def merges_of(pieces, processor, kind):
    """As transformers converts scores: better pieces first, the ways to cut one piece by the ids of its parts."""
    texts = {t: i for t, i in pieces.items() if kind(i) == 1}
    ranked = []
    for piece, i in texts.items():
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        made = [(a, b) for a, b in halves if a in texts and b in texts]
        ranked += [(-processor.get_score(i), i, texts[a], texts[b], (a, b)) for a, b in made]
    return [pair for *_, pair in sorted(ranked)]


# Ways in which files of the LLaMA family write the same vocabulary.
HOWS = [
    {"legacy": True},
    {"legacy": False, "prepend_scheme": "first", "split": False},
    {"legacy": False, "prepend_scheme": "always", "split": True},
    {"legacy": False, "prepend_scheme": "never", "split": False},
]


def as_json(pieces, processor, kind, legacy, **metaspace):
    made = Tokenizer(models.BPE(vocab=pieces, merges=merges_of(pieces, processor, kind), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", **metaspace)
    strip = [] if metaspace.get("prepend_scheme") == "never" else [decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    texts = [t for t in TEXTS if t] + ["<s>a", "a</s> b<s> c ", "</s>"]
    ids = [made.encode(t).ids for t in texts]
    return {"json": shell(made), "texts": texts, "ids": ids, "decoded": [made.decode(i, skip_special_tokens=True) for i in ids]}


def scored(prefix, size, seed):
    """A model as LLaMA's: pairs merged by score, bytes for what has no piece, nothing normalised."""
    pages = [p.read_text() for p in sorted((root / "spec").glob("*.md"))]
    draw = random.Random(seed)
    pages += [draw.choice("ab") * draw.randint(1, 9) + draw.choice([" ", "  ", "b"]) * draw.randint(1, 5) for _ in range(400)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line[:4000] for page in pages for line in page.split("\n") if line.strip()]),
        model_writer=model, model_type="bpe", vocab_size=size, byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix,
        allow_whitespace_only_pieces=True, character_coverage=0.995, minloglevel=2, num_threads=1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = processor.get_piece_size()
    kind = lambda i: 2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
    runs = ["".join(draw.choice(["a", "b", "aa", " ", "the", "é"]) for _ in range(draw.randint(1, 30))) for _ in range(60)]
    texts = [t for t in TEXTS if "<unk>" not in t] + runs
    pieces = {processor.id_to_piece(i): i for i in range(count)}
    return {
        "json": [as_json(pieces, processor, kind, **how) for how in HOWS] if prefix else [],
        "model": base64.b64encode(model.getvalue()).decode(),
        "metadata": {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in range(count)],
            "tokenizer.ggml.scores": [processor.get_score(i) for i in range(count)],
            "tokenizer.ggml.token_type": [kind(i) for i in range(count)],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_space_prefix": prefix,
        },
        "texts": texts,
        "ids": [processor.encode(t) for t in texts],
        "decoded": [processor.decode(processor.encode(t)) for t in texts],
    }


fixture = {
    "byteLevel": smollm2(sys.argv[1]),
    "scored": {"prefixed": scored(True, 800, 7), "bare": scored(False, 600, 8)},
}
(root / "spec/fixtures/text-tokens.json").write_text(json.dumps(fixture, ensure_ascii=True) + "\n")
