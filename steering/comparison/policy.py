"""policy_fits: the policy gradient on the task's rewards, and on rewards that cannot teach the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lab.post_training.reinforce import Reward
from lab.seeds import child_seed, numpy_generator
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from probes.site import Site
from steering.comparison.ground import Ground
from steering.fit.policy_gradient import answer_reward, fit_policy_gradient
from steering.vector import SteeringVector


def policy_fits(
    ground: Ground, sites: Sequence[Site], work: Path
) -> Iterator[tuple[str, Callable[[], SteeringVector]]]:
    """(name, training) of the fit and of the controls that were asked for; each has its checkpoints below `work`."""
    task, wanted = ground.bench.fit_task, ground.comparison.policy_controls
    yield "itself", partial(trained, ground, sites, task, answer_reward(task.verify), work / "steps-itself")
    if "shuffled" in wanted:
        reward = misplaced_reward(task, ground.comparison.seed)
        yield "shuffled", partial(trained, ground, sites, task, reward, work / "steps-shuffled")
    if "other-task" in wanted and ground.other_fit_task is not None:
        other = ground.other_fit_task
        yield (
            "other-task",
            partial(trained, ground, sites, other, answer_reward(other.verify), work / "steps-other-task"),
        )


def trained(ground: Ground, sites: Sequence[Site], task: Task, reward: Reward, work: Path) -> SteeringVector:
    """One training, which goes on from its last whole checkpoint."""
    comparison = ground.comparison
    return fit_policy_gradient(
        ground.bench.base,
        sites,
        task.problems,
        reward,
        replace(comparison.policy, max_new_tokens=comparison.max_new_tokens),
        seed=child_seed(comparison.seed, "policy", work.name),
        work=work,
        on_progress=partial(ground.bench.watch, f"policy gradient: {work.name.removeprefix('steps-')}"),
    )


def misplaced_reward(task: Task, seed: int) -> Reward:
    """1 where a completion states the answer of another problem, each problem having one of the others' for good."""
    order = numpy_generator(seed, "misplaced answers").permutation(len(task.problems))
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    answers = {problem.id: task.problems[following[index]].answer for index, problem in enumerate(task.problems)}

    def reward(problem: Problem, completion: str) -> float:
        return float(task.verify(replace(problem, answer=answers[problem.id]), completion).answer_correct)

    return reward
