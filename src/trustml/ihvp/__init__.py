"""The engine: curvature as linear operators, and certified answers to A x = b."""

from trustml.ihvp.auto import factorize, solve
from trustml.ihvp.blocks import BlockDiagonal
from trustml.ihvp.covariance import Covariance
from trustml.ihvp.curvature import curvature
from trustml.ihvp.damping import choose_damping
from trustml.ihvp.ekfac import Ekfac
from trustml.ihvp.fisher import EmpiricalFisher, Fisher
from trustml.ihvp.gauss_newton import GaussNewton
from trustml.ihvp.hessian import Hessian
from trustml.ihvp.input_hessian import InputHessian
from trustml.ihvp.kfac import Kfac
from trustml.ihvp.last_layer import on_features
from trustml.ihvp.lowrank import LowRankApproximation
from trustml.ihvp.matrices import Dense, Diagonal, MatrixFree
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import FactoredOperator, LinearOperator
from trustml.ihvp.preconditioners import Preconditioner
from trustml.ihvp.quadratic import top_eigenpairs
from trustml.ihvp.solution import Damping, Facts, Solution, Status
from trustml.ihvp.solvers import Factorization
from trustml.ihvp.solvers.downdate import downdate

__all__ = [
    "BlockDiagonal",
    "Covariance",
    "Damping",
    "Dense",
    "Diagonal",
    "Ekfac",
    "EmpiricalFisher",
    "FactoredOperator",
    "Factorization",
    "Facts",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "InputHessian",
    "Kfac",
    "LinearOperator",
    "LowRankApproximation",
    "MatrixFree",
    "Objective",
    "Preconditioner",
    "Solution",
    "Status",
    "choose_damping",
    "curvature",
    "downdate",
    "factorize",
    "on_features",
    "solve",
    "top_eigenpairs",
]
