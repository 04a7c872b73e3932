"""Whose tokens are computed next: continuous batching (Yu et al. 2022, "Orca") with chunked prompts.

Every step reads at most one chunk of waiting prompts and gives every answer that is under way one token. Newcomers
join at the next step, and an answer that has ended or was abandoned leaves at once. Answers never meet in a number:
rows of a product do not depend on each other, each answer's attention is computed on its own, and each draws from its
own seed. So an answer is the same alone and in a crowd; `forward.ROWS` says what that asks of products in bfloat16.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soldiom_ray.models.decoding.adapters import Adapter
from soldiom_ray.models.decoding.answers import Answer
from soldiom_ray.models.decoding.constraint import Constraint
from soldiom_ray.models.decoding.forward import ROWS, Forward
from soldiom_ray.models.decoding.passes import Pass, Read
from soldiom_ray.models.decoding.pool import BLOCK, Range, block_names
from soldiom_ray.models.decoding.sampling import choose

SEQUENCES = 64
"""Answers under way at most."""
FORCED = 16
"""Tokens of one answer that one step reads at most, where a grammar left no choice."""
CHUNK = 128
"""Tokens of prompts that are read between two tokens of the others: 0.1 s of SmolLM2-135M on two cores."""


@dataclass(eq=False, slots=True)
class _Sequence:
    """An answer with its range. `tokens` are those of the prompt, a tuned one's before them; `read` of them and of the
    answer's own are in the pool."""

    answer: Answer
    tokens: list[int]
    range: Range
    blocks: list[bytes]
    read: int = 0

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.tokens) + len(self.answer.tokens)

    @property
    def adapter(self) -> Adapter | None:
        """What answers in place of the model itself."""
        return self.answer.options.adapter


def _by_adapter(running: list[_Sequence]) -> list[_Sequence]:
    """Answers of one adapter beside each other: its matrices are read once for several rows."""
    if any(each.adapter for each in running):
        return sorted(running, key=lambda each: id(each.adapter) if each.adapter else 0)
    return running


def _in_groups(running: Sequence[_Sequence]) -> Iterator[list[_Sequence]]:
    """Answers that are continued together: at most ROWS tokens."""
    group: list[_Sequence] = []
    rows = 0
    for each in running:
        count = each.length - each.read
        if rows + count > ROWS:
            yield group
            group, rows = [], 0
        group.append(each)
        rows += count
    if group:
        yield group


def _if_any(adapters: list[Adapter | None]) -> list[Adapter | None]:
    return adapters if any(adapters) else []


class Scheduler:
    """Not thread-safe. `penalty` is the model's repetition penalty."""

    def __init__(self, forward: Forward, penalty: float = 1.0, sequences: int = SEQUENCES) -> None:
        self.forward, self.penalty, self.sequences = forward, penalty, sequences
        self.virtual = 0 if forward.vectors is None else len(forward.vectors)
        self.waiting: deque[Answer] = deque()
        self.prompts: deque[_Sequence] = deque()
        self.running: list[_Sequence] = []
        self.batches: deque[int] = deque(maxlen=100)
        self.copied_tokens = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.waiting or self.prompts or self.running)

    def submit(self, answer: Answer) -> None:
        """Queue an answer, whose prompt leaves room for at least one token in the forward's context."""
        self.waiting.append(answer)

    def step(self) -> list[Answer]:
        """Compute one step; the answers that it changed or ended."""
        changed = self.forget_abandoned()
        self._admit()
        changed += [answer for answer in self.waiting if answer.finish]
        self.waiting = deque(answer for answer in self.waiting if not answer.finish)
        if self.prompts:
            changed += self._read_prompts()
        for group in _in_groups(_by_adapter(self.running)):
            changed += self._continue(group)
        self.running = [each for each in self.running if not each.answer.finish]
        return changed

    def forget_abandoned(self) -> list[Answer]:
        """Let go of abandoned answers."""
        abandoned = [each for each in (*self.prompts, *self.running) if each.answer.abandoned]
        for each in abandoned:
            self._release(each)
        self.prompts = deque(each for each in self.prompts if not each.answer.abandoned)
        self.running = [each for each in self.running if not each.answer.abandoned]
        self.waiting = deque(answer for answer in self.waiting if not answer.abandoned)
        return [each.answer for each in abandoned]

    def _admit(self) -> None:
        """Give waiting answers a range, in their order, while there is room."""
        while self.waiting and len(self.prompts) + len(self.running) < self.sequences:
            answer = self.waiting[0]
            adapter = answer.options.adapter
            room = self._context(answer) - len(answer.prompt)
            if min(answer.options.max_new_tokens, room) < 1:
                answer.end("length")
                self.waiting.popleft()
                continue
            virtual = self.virtual if adapter is None else adapter.virtual_tokens
            tokens = [-1 - place for place in range(virtual)] + answer.prompt
            size = len(tokens) + min(answer.options.max_new_tokens, room)
            taken = self.forward.pool.reserve(size)
            if taken is None:
                return
            self.waiting.popleft()
            if answer.options.grammar is not None:
                answer.constraint = Constraint(answer.options.grammar, size - len(tokens))
            origin = "" if adapter is None else adapter.name
            blocks = block_names(tokens, origin) if self.forward.shares_prefixes else []
            self.prompts.append(_Sequence(answer, tokens, taken, blocks))

    def _read_prompts(self) -> list[Answer]:
        """Read the next chunk of prompts; answers whose prompt is complete get their first token."""
        pieces: list[tuple[_Sequence, int, int]] = []
        room = CHUNK if self.forward.mixes_prompts else BLOCK
        for each in self.prompts:
            if room <= 0 or (pieces and not self.forward.mixes_prompts):
                break
            if not each.read and each.blocks:
                each.read = BLOCK * self.forward.pool.copy_prefix(each.range, each.blocks)
                self.copied_tokens += each.read
            end = min(len(each.tokens), (each.read + room) // BLOCK * BLOCK)
            end = len(each.tokens) if len(each.tokens) - each.read <= room else max(end, each.read + BLOCK)
            pieces.append((each, each.read, min(end, len(each.tokens))))
            room -= end - each.read
        work, complete = self._pass_of(pieces)
        logits = self.forward(work)
        for each, _, end in pieces:
            each.read = end
            if each.blocks:
                self.forward.pool.publish(each.range, each.blocks[: end // BLOCK])
        for each in complete:
            self.prompts.remove(each)
        self._give(complete, logits)
        self.running += [each for each in complete if not each.answer.finish]
        return [each.answer for each in complete]

    def _pass_of(self, pieces: Sequence[tuple[_Sequence, int, int]]) -> tuple[Pass, list[_Sequence]]:
        """The pass that reads parts of prompts, block by block, and the sequences that are complete after it."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        reads: list[Read] = []
        last: list[int] = []
        adapters: list[Adapter | None] = []
        complete: list[_Sequence] = []
        for each, start, end in pieces:
            for begin in range(start, end, BLOCK):
                stop = min(begin + BLOCK, end)
                reads.append(Read(len(tokens) + begin - start, stop - begin, each.range.start, stop))
            tokens += each.tokens[start:end]
            positions += range(start, end)
            slots += range(each.range.start + start, each.range.start + end)
            adapters += [each.adapter] * (end - start)
            if end == len(each.tokens):
                last.append(len(tokens) - 1)
                complete.append(each)
        if (padding := self.forward.prompt_rows - len(tokens)) > 0:
            tokens += [0] * padding
            positions += [0] * padding
            slots += [self.forward.pool.positions] * padding
            adapters += [None] * padding
        return Pass(tokens, positions, slots, reads, last, _if_any(adapters)), complete

    def _continue(self, running: list[_Sequence]) -> list[Answer]:
        """One more token for each, after those that were not read yet: its last, and what a grammar forced."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        reads: list[Read] = []
        last: list[int] = []
        adapters: list[Adapter | None] = []
        for each in running:
            for position in range(each.read, each.length):
                reads.append(Read(len(tokens), 1, each.range.start, position + 1))
                tokens.append(each.answer.tokens[position - len(each.tokens)])
                positions.append(position)
                slots.append(each.range.start + position)
            adapters += [each.adapter] * (each.length - each.read)
            each.read = each.length
            last.append(len(tokens) - 1)
        logits = self.forward(Pass(tokens, positions, slots, reads, last, _if_any(adapters)))
        self.batches.append(len(running))
        self._give(running, logits)
        return [each.answer for each in running]

    def _give(self, sequences: Sequence[_Sequence], logits: object) -> None:
        """Each sequence's next token, from its row of logits."""
        if not sequences:
            return
        answers = [each.answer for each in sequences]
        for each, token in zip(sequences, choose(logits, answers, self.penalty), strict=True):  # type: ignore[arg-type]
            answer = each.answer
            self._add(answer, token)
            if answer.constraint is not None and answer.options.logprobs is None:
                while not answer.finish and each.length - each.read < FORCED:
                    if (forced := answer.constraint.take_forced()) is None:
                        break
                    self._add(answer, forced)
            if answer.finish:
                self._release(each)

    def _add(self, answer: Answer, token: int) -> None:
        answer.add(token)
        full = len(answer.prompt) + len(answer.tokens) >= self._context(answer)
        if full or len(answer.tokens) >= answer.options.max_new_tokens:
            answer.end("length")

    def _context(self, answer: Answer) -> int:
        """Tokens that its prompt and the answer may have together."""
        adapter = answer.options.adapter
        return self.forward.context - (adapter.virtual_tokens if adapter else 0)

    def _release(self, each: _Sequence) -> None:
        self.forward.release(each.range)
        self.forward.pool.release(each.range)
