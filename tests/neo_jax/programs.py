"""What a traced program consists of, loop bodies and nested functions included."""

from collections.abc import Iterator

import jax


def equations(function, *arguments) -> list:
    """Every equation of the program that `function` is traced to; arguments may be ShapeDtypeStruct.

    A call of a jitted function is what is inside it: its results alone would count arrays that are only handed through.
    """

    def visit(jaxpr) -> Iterator:
        for equation in jaxpr.eqns:
            if equation.primitive.name not in ("jit", "pjit"):
                yield equation
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(value, "eqns"):
                    yield from visit(getattr(value, "jaxpr", value))

    return list(visit(jax.make_jaxpr(function)(*arguments).jaxpr))


def largest_array(function, *arguments) -> int:
    """Elements of the largest array that a function makes."""
    return max(variable.aval.size for equation in equations(function, *arguments) for variable in equation.outvars)
