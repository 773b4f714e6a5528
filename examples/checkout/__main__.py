"""`python -m examples.checkout`: place every order while the engine is killed, then compare the books.

Exit code 0 only when the books match exactly, every planned kill hit a working engine, and every planned
fault really happened.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.checkout.books import compare
from examples.checkout.driver import EngineStuck, Evidence, drive, plan_kills
from examples.checkout.faults import Fault, planned
from examples.checkout.make_orders import PATH
from examples.checkout.orders import Order, Rejected, read_orders

#: A list of discrepancies longer than this helps nobody.
SHOWN = 30


def main() -> int:
    """Run the whole story; the exit code is the verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.checkout",
        description="Place orders while the engine is killed again and again.",
    )
    parser.add_argument(
        "--orders", type=Path, default=PATH, metavar="FILE", help="default: the file that comes along"
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="SIGKILLs during the run (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and of the kills (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=32, metavar="N", help="orders at a time (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the databases and logs in this empty folder")
    options = parser.parse_args()
    try:
        orders, rejected = read_orders(options.orders)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.keep and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty: it would mix two runs")
    different = len({order.id for order in orders})
    print(
        f"{options.orders}: {different} orders on {len(orders)} lines ({len(orders) - different} repeated), "
        f"{len(rejected)} lines rejected"
    )
    for line in rejected if options.keep else rejected[:3]:
        print(f"  line {line.line}: {line.reason}")
    if not options.keep and len(rejected) > 3:
        print(f"  … and {len(rejected) - 3} more (all of them with --keep)")

    with ExitStack() as stack:
        if options.keep:
            folder = options.keep
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checkout-")))
        kills = plan_kills(options.seed, options.kills, different)
        try:
            with progress(different) as show:
                evidence = asyncio.run(drive(folder, options.orders, options.seed, kills, options.concurrency, show))
        except EngineStuck as error:
            print(f"\nFAILED: {error}")
            return 1
    return verdict(options.seed, orders, rejected, options.kills, evidence)


@contextmanager
def progress(total: int) -> Generator[Callable[[int, int], None], None, None]:
    """A bar on a terminal, a line at every quarter elsewhere."""
    console = Console()
    if not console.is_terminal:
        quarters = 0

        def show_line(done: int, kills: int) -> None:
            nonlocal quarters
            if total and done * 4 // total > quarters:
                quarters = done * 4 // total
                print(f"{done}/{total} orders done, engine killed {kills} times", flush=True)

        yield show_line
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("orders  {task.fields[kills]} kills"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, kills=0)
        yield lambda done, kills: bar.update(task, completed=done, kills=kills)


def verdict(seed: int, orders: Sequence[Order], rejected: Sequence[Rejected], kills: int, evidence: Evidence) -> int:
    """Print what happened and everything that should not have."""
    discrepancies = compare(seed, orders, evidence.outcomes, evidence.stock, evidence.payment, evidence.spent)
    wrong = Counter(each.kind for each in discrepancies)
    stock, payment = evidence.stock_tally, evidence.payment_tally
    fired = Counter(stock.faults) + Counter(payment.faults)
    problems = [each.words for each in discrepancies] + list(_beside_the_books(seed, orders, kills, evidence, fired))

    ended = Counter({outcome.order: outcome.code for outcome in evidence.outcomes}.values())
    timing = evidence.timing
    total = sum(ended.values())
    restarts = timing.starts[1:]
    back = f", back at work {sum(restarts) / len(restarts):.2f} s after a kill on average" if restarts else ""
    print(f"""
outcomes   {ended[200]} placed, {ended[402]} declined, {ended[409]} out of stock, {ended[403]} over the limit
books      {wrong["lost"]} lost, {wrong["doubled"]} doubled, {wrong["wrong"]} wrong in another way
kills      {evidence.hits} of {kills} hit a working engine, {evidence.early_kills} more hit one just started
replays    {evidence.replayed} invocations were resumed after a kill, {evidence.replays} times altogether
retries    {evidence.retries} tries after an error
requests   {stock.requests + payment.requests}, of which {stock.repeats + payment.repeats} asked for \
something already done
faults     {", ".join(f"{fired[fault]} x {fault.value}" for fault in Fault)}
speed      {total / timing.wall:.0f} orders/s: {total} in {timing.wall:.1f} s, kills included{back}
""")
    if problems:
        print("FAILED")
        for line in problems[:SHOWN]:
            print(f"  {line}")
        if len(problems) > SHOWN:
            print(f"  … and {len(problems) - SHOWN} more")
        return 1
    print("The books match: nothing lost, nothing doubled.")
    return 0


def _beside_the_books(
    seed: int, orders: Sequence[Order], kills: int, evidence: Evidence, fired: Counter[Fault]
) -> Iterator[str]:
    """What makes a run fail although the books match: broken promises, and trouble that did not come."""
    tallies = (evidence.stock_tally, evidence.payment_tally)
    if doubled := sum(tally.doubled for tally in tallies):
        yield f"{doubled} effects were asked for again under another key"
    if needless := sum(tally.needless for tally in tallies):
        yield f"{needless} steps ran again in a process that had their answer"
    if evidence.integrity != "ok":
        yield f"the engine's database is damaged: {evidence.integrity}"
    if evidence.kills < kills:
        yield f"only {evidence.kills} of {kills} planned kills were made: the orders ran out (try fewer at a time)"
    elif evidence.hits < kills:
        yield f"only {evidence.hits} of {kills} planned kills hit a working engine"
    for fault, times in planned(seed, orders).items():
        if fired[fault] < times:
            yield f"fault {fault.value!r}: planned {times} times or more, fired {fired[fault]} times"


if __name__ == "__main__":
    sys.exit(main())
