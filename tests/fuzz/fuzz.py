"""Damages good bytes at random and feeds them to decoders, for as long as wanted.

    python tests/fuzz/fuzz.py [TARGET ...] [--seconds 600] [--seed 7]

A target is a file `target_NAME.py` beside this one, with `SEEDS` (good inputs) and `attack(data)`, which returns for
every input and raises only if the decoder has a fault: another error than it promises, or a broken promise.
The same seed damages the same way, so a fault that was found can be looked at again.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xC0, 0xC1, 0xC4, 0xD9, 0xDD, 0xDF, 0xFE, 0xFF)


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder under attack."""

    name: str
    seeds: Sequence[bytes]
    attack: Callable[[bytes], None]

    def run(self, seed: int, stop: Callable[[int], bool]) -> int:
        """Attack until `stop(rounds)`; return the rounds. Raises what the decoder should not."""
        chance = random.Random(f"{self.name} {seed}")
        rounds = 0
        while not stop(rounds):
            data = damaged(chance, self.seeds)
            try:
                self.attack(data)
            except BaseException as error:
                error.add_note(f"target {self.name}, round {rounds}, input {data.hex()}")
                raise
            rounds += 1
        return rounds


def damaged(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a good input after some accidents; now and then nothing but noise."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 6)):
        accident = chance.randrange(6)
        place = chance.randrange(len(data) + 1)
        if accident == 0:
            del data[place:]
        elif accident == 1:
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
        elif accident == 2:
            del data[place : place + chance.randrange(1, 9)]
        elif accident == 3:
            data += chance.choice(seeds)[place:]
        elif place < len(data):
            data[place] = chance.choice(_INTERESTING) if accident == 4 else data[place] ^ 1 << chance.randrange(8)
    return bytes(data)


def targets() -> list[Target]:
    """Return all targets, by name."""
    return [_load(path) for path in sorted(Path(__file__).parent.glob("target_*.py"))]


def _load(path: Path) -> Target:
    spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Target(path.stem.removeprefix("target_"), module.SEEDS, module.attack)


def _deadline(end: float) -> Callable[[int], bool]:
    return lambda rounds: time.monotonic() >= end


def main() -> int:
    """Run the targets named, or all of them, in turn."""
    known = {target.name: target for target in targets()}
    parser = argparse.ArgumentParser(description="Feed damaged bytes to decoders.")
    parser.add_argument("target", nargs="*", choices=[*known, []], help=", ".join(known))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (default 10)")
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="repeat an earlier run")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    for name in options.target or known:
        rounds = known[name].run(options.seed, _deadline(time.monotonic() + options.seconds))
        print(f"{name}: {rounds} rounds, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
