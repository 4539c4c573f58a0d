"""Byte-level BPE tokenizer; every digit is its own token.

python tok.py OUT_DIR [VOCABULARY]
"""

import json
import os
import random
import sys
from collections import defaultdict

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import data

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' or m['role'] == 'system' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜></think>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{% if thinking is defined and not thinking %}{{ '<｜Assistant｜></think>' }}"
    "{% else %}{{ '<｜Assistant｜><think>' }}{% endif %}{% endif %}"
)


def build(out_dir, vocabulary=448, documents=4000):
    """Trains tokenizer.json on generated documents and writes it with tokenizer_config.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(r"\p{L}+ ?| ?[^\s\p{L}\p{N}]+[ \n]*|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(5)

    def corpus():
        for _ in range(documents):
            text = "".join(part for part, _ in data.document(rng))
            for special in data.SPECIALS:
                text = text.replace(special, "\x00")
            yield from (part for part in text.split("\x00") if part)

    specials = [AddedToken(s, normalized=False, special=True) for s in data.SPECIALS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    os.makedirs(out_dir, exist_ok=True)
    tokenizer.save(f"{out_dir}/tokenizer.json")
    mark_thinking(f"{out_dir}/tokenizer.json")
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": data.BOS,
        "eos_token": data.EOS,
        "pad_token": data.PAD,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    with open(f"{out_dir}/tokenizer_config.json", "w") as file:
        json.dump(config, file, ensure_ascii=False, indent=2)


def mark_thinking(path):
    """Marks <think> and </think> as added tokens that are not special, as DeepSeek's tokenizer does; the trainer makes every
    added token special."""
    with open(path) as file:
        tokenizer = json.load(file)
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"] not in (data.THINK_OPEN, data.THINK_CLOSE)
    with open(path, "w") as file:
        json.dump(tokenizer, file, ensure_ascii=False, indent=2)


class Tok:
    """The tokenizer of a model directory."""

    def __init__(self, directory):
        self.tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
        self.bos, self.eos, self.pad, self.think_close = (
            self.tokenizer.token_to_id(s) for s in (data.BOS, data.EOS, data.PAD, data.THINK_CLOSE)
        )
        self.size = self.tokenizer.get_vocab_size()

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def main():
    build(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 448)
    tok = Tok(sys.argv[1])
    print("vocabulary", tok.size)
    rng = random.Random(9)
    lengths = defaultdict(list)
    for _ in range(3000):
        role, family = rng.choice(data.ROLES), rng.choice(data.FAMILIES)
        document = data.document(rng, role, family)
        ids = [(tok.encode(text), trained) for text, trained in document]
        assert tok.decode(sum((part for part, _ in ids), [])) == "".join(text for text, _ in document)
        lengths[role, family].append(
            (sum(len(p) for p, _ in ids), sum(len(p) for p, trained in ids if trained))
        )
    for key, pairs in sorted(lengths.items()):
        total, trained = zip(*pairs)
        print(
            *key,
            f"tokens: mean {sum(total)/len(pairs):.0f}, most {max(total)}, trained {sum(trained)/len(pairs):.0f}",
        )


if __name__ == "__main__":
    main()
