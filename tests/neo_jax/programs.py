"""What a traced program consists of, loop bodies and nested functions included."""

from collections.abc import Iterator

import jax
from jax.interpreters import partial_eval


def equations(function, *arguments) -> list:
    """Every equation that the results of `function` depend on; arguments may be ShapeDtypeStruct.

    A call of a jitted function is what is inside it: its results alone would count arrays that are only handed through.
    """

    def visit(jaxpr) -> Iterator:
        for equation in jaxpr.eqns:
            if equation.primitive.name not in ("jit", "pjit"):
                yield equation
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(value, "eqns"):
                    yield from visit(getattr(value, "jaxpr", value))

    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return list(visit(partial_eval.dce_jaxpr(program, [True] * len(program.outvars), instantiate=True)[0]))


def largest_array(function, *arguments) -> int:
    """Elements of the largest array that a function makes."""
    return max(variable.aval.size for equation in equations(function, *arguments) for variable in equation.outvars)
