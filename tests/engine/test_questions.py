"""Questions to the engine: sent once however many ask, answered, or given up."""

import asyncio
from typing import Any

import pytest

from engine import questions
from engine.errors import EngineUnavailableError
from engine.messages import AskBlocks, AskRequests, BlocksAnswer, RequestsAnswer
from kvcache.block_map import BlockSnapshot

pytestmark = pytest.mark.anyio

BLOCKS = BlocksAnswer(AskBlocks(), BlockSnapshot(1, 4, [], []))


async def ask(open_questions: questions.OpenQuestions, number: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(open_questions.ask(AskBlocks(), BlocksAnswer)) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


async def test_a_question_that_is_open_is_not_sent_again() -> None:
    sent: list[Any] = []
    open_questions = questions.OpenQuestions(sent.append)
    tasks = await ask(open_questions, 5)
    assert sent == [AskBlocks()]
    open_questions.settle(BLOCKS)
    assert await asyncio.gather(*tasks) == [BLOCKS] * 5
    [again] = await ask(open_questions, 1)
    assert len(sent) == 2
    open_questions.settle(BLOCKS)
    await again


async def test_different_questions_have_their_own_answers() -> None:
    sent: list[Any] = []
    open_questions = questions.OpenQuestions(sent.append)
    first, second = AskRequests(("a",)), AskRequests(("b",))
    tasks = [asyncio.create_task(open_questions.ask(one, RequestsAnswer)) for one in (first, second)]
    await asyncio.sleep(0)
    for one in (second, first):
        open_questions.settle(RequestsAnswer(one, []))
    assert [(await task).question for task in tasks] == sent == [first, second]


async def test_an_engine_that_dies_answers_nobody() -> None:
    open_questions = questions.OpenQuestions(lambda question: None)
    tasks = await ask(open_questions, 3)
    open_questions.give_up()
    for task in tasks:
        with pytest.raises(EngineUnavailableError, match="died before it answered"):
            await task
    open_questions.give_up()


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    open_questions = questions.OpenQuestions(lambda question: None)
    leaving, staying = await ask(open_questions, 2)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    open_questions.settle(BLOCKS)
    assert await staying == BLOCKS


async def test_waiting_has_an_end_and_a_late_answer_serves_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ANSWER_TIMEOUT_S", 0.01)
    sent: list[Any] = []
    open_questions = questions.OpenQuestions(sent.append)
    with pytest.raises(EngineUnavailableError, match="has not answered"):
        await open_questions.ask(AskBlocks(), BlocksAnswer)
    [next_one] = await ask(open_questions, 1)
    assert len(sent) == 1, "the engine has it still to answer"
    open_questions.settle(BLOCKS)
    assert await next_one == BLOCKS
    open_questions.settle(BLOCKS)
