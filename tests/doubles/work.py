"""Work for cells of a grid, in a module that worker processes load in no time."""

from stepcredit.errors import InputError


def double(folder, number):
    if number < 0:
        raise InputError("is negative", "number")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "runs").open("a") as file:
        file.write("x")
    return {"double": 2 * number}
