from stepcredit.metrics.localisation import StepCredit, first_wrong_step_found, largest_drop


def test_the_first_of_equal_drops():
    assert largest_drop([0.1, -0.4, -0.4]) == 1


def test_by_hand():
    responses = [
        StepCredit([0.1, -0.5, -0.1], [False, True, True]),  # found
        StepCredit([-0.5, 0.1], [False, True]),  # missed
        StepCredit([-0.5, 0.1], [False, False]),  # no wrong step: does not count
        StepCredit([-0.1, -0.2, -0.3, -0.6], [False, False, False, True]),  # found
    ]
    found, chance = first_wrong_step_found(responses, ["a", "a", "b", "b"])
    assert found.estimate == 2 / 3
    assert (found.groups, found.pairs) == (2, 3)
    assert chance == (1 / 3 + 1 / 2 + 1 / 4) / 3
