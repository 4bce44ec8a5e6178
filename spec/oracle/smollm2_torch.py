"""SmolLM2-135M-Instruct answers 20 prompts greedily, apart from everything of ours but the file: GGUF read and expanded by the
package `gguf`, ids by the Rust library `tokenizers`, the chat template by Jinja2, and LLaMA's equations in PyTorch in float64
with a plain cache. The weights stay as GGUF has them: rotations turn neighbours (2i, 2i + 1), where ours turn halves.

    python3 spec/oracle/smollm2_torch.py examples/smollm2/model/SmolLM2-135M-Instruct.Q4_1.gguf
        writes spec/fixtures/smollm2-greedy.json: for each prompt its ids, the ids that follow, and the smallest distance of a
        chosen token's logit from the next one's, with the place where it is.

The Python has torch, numpy, gguf, tokenizers and jinja2.
"""

import json
import pathlib
import sys

import jinja2
import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGUFReader, quants
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

TOKENS = 64
# Two logits that are closer are a near tie, which the last bits of float32 may decide: such a prompt proves nothing.
NEAR = 0.002

# A string is a text that the model goes on with, a list is a conversation.
PROMPTS = [
    [("user", "Explain how a bicycle stays upright, step by step.")],
    [("user", "Write a short story about a lighthouse keeper and a lost cat.")],
    [("user", "List ten uses of vinegar in the household.")],
    [("user", "Explain photosynthesis to a child.")],
    [("user", "Write a Python function that returns the n-th Fibonacci number, and explain it.")],
    [("user", "Describe the water cycle, with all its stages.")],
    [("user", "Give me a recipe for tomato soup.")],
    [("user", "Compare cats and dogs as pets in a short essay.")],
    [("user", "Who was Marie Curie, and why is she remembered?")],
    [("user", "Plan a weekend in Paris for two people.")],
    [("system", "You are a pirate. Answer like one."), ("user", "Tell me the story of your longest voyage.")],
    [("system", "You answer in lists."), ("user", "How do I plant a tree?")],
    [
        ("user", "What is the capital of Italy?"),
        ("assistant", "The capital of Italy is Rome."),
        ("user", "Tell me its history from the beginning, in detail."),
    ],
    [
        ("user", "Hello! Who are you?"),
        ("assistant", "I am a helpful AI assistant."),
        ("user", "Wo liegt Berlin?"),
        ("assistant", "Berlin liegt in Deutschland."),
        ("user", "Write a long letter in English to a friend who wants to visit the city."),
    ],
    [("user", "日本の四季について長い文章を書いてください。")],
    [("user", "Solve step by step: a train travels 120 km in 1.5 hours. How far does it travel in 4 hours at the same speed?")],
    "The history of the printing press begins in",
    "Dear diary, today I walked along the beach, and",
    "Once upon a time, in a village between two mountains, there lived a",
    # Long: more than one tile of every kernel.
    "It was a very long list, and nobody had ever read it to its end. "
    + " ".join(f"On day {i} the {w} saw {i * i} birds over the {p}." for i, (w, p) in enumerate(
        [(w, p) for w in ("sailor", "farmer", "painter", "teacher", "doctor") for p in ("harbour", "hill", "forest", "market", "river", "church")], 1))
    + " On day 31 the",
]  # fmt: skip


class Llama:
    def __init__(self, reader):
        field = lambda name: reader.get_field(f"llama.{name}").contents()
        self.layers, self.heads, self.kv = (int(field(n)) for n in ("block_count", "attention.head_count", "attention.head_count_kv"))
        self.eps, self.theta = float(field("attention.layer_norm_rms_epsilon")), float(field("rope.freq_base"))
        self.w = {}
        for t in reader.tensors:
            values = quants.dequantize(t.data, t.tensor_type).astype(np.float64)
            self.w[t.name] = torch.from_numpy(values.reshape(tuple(reversed(t.shape.tolist()))))
        self.reset()

    def reset(self):
        self.keys, self.values = [None] * self.layers, [None] * self.layers

    def norm(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.w[f"{name}.weight"]

    def turned(self, x, past):
        """x: [heads, T, d], neighbours (2i, 2i + 1) by position · theta^(-2i/d)."""
        t, d = x.shape[-2:]
        frequency = self.theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angle = torch.outer(torch.arange(past, past + t, dtype=torch.float64), frequency)
        z = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2).contiguous())
        return torch.view_as_real(z * torch.polar(torch.ones_like(angle), angle)).flatten(-2)

    def logits(self, ids):
        """Of the last of `ids`, which follow what went before."""
        past = 0 if self.keys[0] is None else self.keys[0].shape[1]
        x = self.w["token_embd.weight"][torch.tensor(ids)]
        seen = torch.arange(past + len(ids))[None] <= torch.arange(past, past + len(ids))[:, None]
        for i in range(self.layers):
            b = f"blk.{i}"
            y = self.norm(x, f"{b}.attn_norm")
            q, k, v = (
                (y @ self.w[f"{b}.attn_{n}.weight"].T).reshape(len(ids), h, -1).transpose(0, 1)
                for n, h in (("q", self.heads), ("k", self.kv), ("v", self.kv))
            )
            q, k = self.turned(q, past), self.turned(k, past)
            if past > 0:
                k, v = torch.cat([self.keys[i], k], 1), torch.cat([self.values[i], v], 1)
            self.keys[i], self.values[i] = k, v
            share = self.heads // self.kv
            a = F.scaled_dot_product_attention(q[None], k.repeat_interleave(share, 0)[None], v.repeat_interleave(share, 0)[None], attn_mask=seen)[0]
            x = x + a.transpose(0, 1).flatten(1) @ self.w[f"{b}.attn_output.weight"].T
            y = self.norm(x, f"{b}.ffn_norm")
            x = x + (F.silu(y @ self.w[f"{b}.ffn_gate.weight"].T) * (y @ self.w[f"{b}.ffn_up.weight"].T)) @ self.w[f"{b}.ffn_down.weight"].T
        head = self.w.get("output.weight", self.w["token_embd.weight"])
        return self.norm(x[-1:], "output_norm")[0] @ head.T


def tokenizer_of(fields):
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    specials = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == 3]
    made.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return made


class Oracle:
    def __init__(self, path):
        reader = GGUFReader(path)
        fields = {k: f.contents() for k, f in reader.fields.items() if k.startswith("tokenizer.")}
        self.tokenizer = tokenizer_of(fields)
        self.template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(fields["tokenizer.chat_template"])
        self.end = fields["tokenizer.ggml.eos_token_id"]
        self.llama = Llama(reader)

    def case(self, prompt):
        messages = None if isinstance(prompt, str) else [{"role": role, "content": content} for role, content in prompt]
        text = prompt if messages is None else self.template.render(messages=messages, add_generation_prompt=True)
        rows = ids = self.tokenizer.encode(text).ids
        self.llama.reset()
        found, gap, at = [], float("inf"), 0
        while len(found) < TOKENS:
            with torch.inference_mode():
                (first, second), (best, _) = (part.tolist() for part in self.llama.logits(rows).topk(2))
            if first - second < gap:
                gap, at = first - second, len(found)
            if best == self.end:
                break
            found.append(best)
            rows = [best]
        given = {"messages": messages} if messages is not None else {"text": text}
        print(f"{len(ids)} ids, {len(found)} more, gap {gap:.4g} at {at}: {self.tokenizer.decode(found)!r}", file=sys.stderr, flush=True)
        return {**given, "ids": ids, "next": found, "gap": float(f"{gap:.3g}"), "gapAt": at}


def problem(case):
    if len(case["next"]) < TOKENS:
        return f"ends after {len(case['next'])} tokens"
    return f"a near tie decides about token {case['gapAt']}" if case["gap"] < NEAR else None


def write(path, cases):
    problems = [f"{problem(case)}: {case.get('text', case.get('messages'))!r}" for case in cases if problem(case)]
    if problems:
        raise SystemExit("other prompts are needed:\n" + "\n".join(problems))
    target = pathlib.Path(__file__).parent.parent / "fixtures" / "smollm2-greedy.json"
    lines = ",\n".join(json.dumps(case) for case in cases)
    head = f'"file": {json.dumps(pathlib.Path(path).name)}, "torch": {json.dumps(torch.__version__)}, "near": {NEAR}'
    target.write_text(f'{{{head}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    oracle = Oracle(sys.argv[1])
    write(sys.argv[1], [oracle.case(prompt) for prompt in PROMPTS])
