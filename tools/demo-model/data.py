"""Token rows for training: documents encoded, weighted and packed."""

import re

import numpy as np
import torch
from tokenizers import Tokenizer

from tokenizer import END_OF_TEXT, WORK, read_documents

SHORT_ROW, LONG_ROW = 256, 1024
SUM_WEIGHT = 3

# The result of an equation. These few tokens are the hardest of the corpus, so they weigh more; the
# weight depends on nothing but the context, which leaves the best prediction what it was.
RESULT = re.compile(r"(?<=\d = )\d+")

# Documents of these families may be added again with weight on their answers alone. That trains
# answers more often and leaves the distribution of the questions as it is.
ANSWER = re.compile(r"(?<=<\|im_start\|>assistant\n).*?<\|im_end\|>", re.DOTALL)
ANSWER_FAMILIES = ("qa-chat", "json-chat")
ANSWER_WEIGHT = 2


def load_tokenizer():
    return Tokenizer.from_file(str(WORK / "tokenizer.json"))


def tokens_within(pattern, text, offsets):
    """The numbers of the tokens that begin inside a match of the pattern."""
    inside = {i for match in pattern.finditer(text) for i in range(*match.span())}
    return [number for number, (start, _) in enumerate(offsets) if start in inside]


def token_weights(text, offsets):
    """The weight of each token of a document."""
    weights = np.ones(len(offsets), dtype=np.uint8)
    weights[tokens_within(RESULT, text, offsets)] = SUM_WEIGHT
    return weights


def answer_weights(text, offsets):
    weights = np.zeros(len(offsets), dtype=np.uint8)
    weights[tokens_within(ANSWER, text, offsets)] = ANSWER_WEIGHT
    return weights


def encode_documents(path, answer_copies, chunk=2000):
    """Lists of token ids and of weights, one entry for each document or copy of its answers."""
    tokenizer = load_tokenizer()
    documents = list(read_documents(path))
    ids, weights = [], []
    for start in range(0, len(documents), chunk):
        part = documents[start : start + chunk]
        encodings = tokenizer.encode_batch([d["text"] for d in part], add_special_tokens=False)
        for document, encoding in zip(part, encodings):
            copies = answer_copies if document["family"] in ANSWER_FAMILIES else 0
            ids += [np.array(encoding.ids, dtype=np.uint16)] * (1 + copies)
            weights.append(token_weights(document["text"], encoding.offsets))
            if copies:
                weights += [answer_weights(document["text"], encoding.offsets)] * copies
    return ids, weights


class Rows:
    """Endless batches of packed rows.

    Documents that fit go into short rows; the long ones and a share of the short ones go into long
    rows, so that far positions are trained as well. A row begins with a document, half of the time
    after the end-of-text token and half of the time at position 0, as a raw prompt does.
    """

    def __init__(self, path, tokens_per_batch, seed, answer_copies=0):
        self.ids, self.weights = encode_documents(path, answer_copies)
        self.end = load_tokenizer().token_to_id(END_OF_TEXT)
        self.tokens_per_batch = tokens_per_batch
        self.random = np.random.default_rng(seed)

    @property
    def token_count(self):
        return sum(map(len, self.ids))

    def __iter__(self):
        while True:
            yield from self.epoch()

    def epoch(self):
        order = self.random.permutation(len(self.ids))
        is_long = [
            len(self.ids[i]) >= SHORT_ROW or share < 0.12
            for i, share in zip(order, self.random.random(len(order)))
        ]
        long = [i for i, flag in zip(order, is_long) if flag]
        short = [i for i, flag in zip(order, is_long) if not flag]
        batches = [*self.batches(long, LONG_ROW), *self.batches(short, SHORT_ROW)]
        for index in self.random.permutation(len(batches)):
            yield self.tensors(*batches[index])

    def batches(self, documents, length):
        """Groups documents into batches of rows: (rows of document numbers, row length)."""
        rows, row, used = [], [], 0
        for i in documents:
            row.append(i)
            used += len(self.ids[i]) + 1
            if used > length:
                rows.append(row)
                row, used = [], 0
        size = self.tokens_per_batch // length
        return [(rows[i : i + size], length) for i in range(0, len(rows) - size + 1, size)]

    def tensors(self, rows, length):
        packed = [self.pack(row, length) for row in rows]
        ids = torch.from_numpy(np.stack([ids for ids, _ in packed]))
        weights = torch.from_numpy(np.stack([weights for _, weights in packed]))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous()

    def pack(self, row, length):
        end, one = np.array([self.end]), np.array([1])
        ids, weights = ([end], [one]) if self.random.random() < 0.5 else ([], [])
        for i in row:
            ids += [self.ids[i], end]
            weights += [self.weights[i], one]
        ids, weights = np.concatenate(ids), np.concatenate(weights)
        return ids[: length + 1].astype(np.int64), weights[: length + 1].astype(np.float32)
