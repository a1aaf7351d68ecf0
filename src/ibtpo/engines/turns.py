"""How an engine that is stepped on the event loop lets the loop's other tasks run between two steps."""

import asyncio

# Turns of the event loop from a finished rollout to the requests that follow it. The search takes six: the rollout's
# own task goes on, all answers that ended are verified, the task goes on with its verdict, then the task that gathers
# its round, the tree that chooses the next places, and the new rollouts' tasks. Two are to spare,
# for callers that wait through tasks of their own. With fewer, the next decode step would start without those requests,
# and places in the batch would stay empty for a whole step.
TURNS_AFTER_A_FINISH = 8


async def let_callers_run(finished: bool) -> None:
    """Lets the other tasks of the event loop run; an engine awaits it between two decode steps.

    finished: whether a rollout ended in the last step. Then the tasks that wait for it must have the time to ask for
        what follows before the next step. Otherwise one turn is enough for new and cancelled requests.
    """
    for _ in range(TURNS_AFTER_A_FINISH if finished else 1):
        await asyncio.sleep(0)
