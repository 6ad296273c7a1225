"""Every hyperparameter: what is allowed, and the words for what is not."""

import functools
import math

import numpy as np
import pytest
import torch

import bsam

GOOD = {
    "lr": [0, 0.0, 3, np.float32(0.5), torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)],
    "num_data": [1, 0.5, 60_000, np.int64(7), math.inf],
    "rho": [0, 0.01, 10],
    "betas": [(0, 0), (0.9, 1), [0.9, 0.999], (0.0, 1.0)],
    "weight_decay": [0, 1e-4, 2],
    "damping": [0.1, 5],
    "s_init": [1e-3, 1, 100.0],
    "order": ["precision_first", "mean_first"],
    "foreach": [None, True, False],
    "compiled": [True, False],
    "seed": [0, 2**63 - 1, np.int64(3), None],
}

BAD = [
    ("lr", -0.1, ValueError, r"lr=-0.1: must be at least 0 and finite; pass a learning rate"),
    ("lr", math.nan, ValueError, r"lr=nan: must be at least 0 and finite"),
    ("lr", math.inf, ValueError, r"lr=inf: must be at least 0 and finite"),
    ("lr", "0.1", TypeError, r"lr='0.1': must be a real number, not str"),
    ("lr", True, TypeError, r"lr=True: must be a real number, not bool"),
    ("lr", None, TypeError, r"lr=None: must be a real number, not NoneType"),
    ("lr", torch.tensor(-1.0), ValueError, r"lr=-1.0: must be at least 0"),
    ("lr", torch.tensor([0.1]), TypeError, r"lr=<tensor of shape \(1,\), .*must be 0-d and fl"),
    ("lr", torch.tensor(1), TypeError, r"lr=<tensor of shape \(\), torch.int64>"),
    ("num_data", 0, ValueError, r"num_data=0: must be greater than 0; pass the number of training"),
    ("num_data", -5, ValueError, r"num_data=-5: must be greater than 0"),
    ("num_data", math.nan, ValueError, r"num_data=nan: must be greater than 0"),
    ("num_data", torch.ones(9), TypeError, r"num_data=<tensor>: must be a real number, not Tensor"),
    ("num_data", "all", TypeError, r"num_data='all': must be a real number, not str; pass the num"),
    ("rho", -1e-9, ValueError, r"rho=-1e-09: must be at least 0 and finite; try 0.01"),
    ("rho", math.inf, ValueError, r"rho=inf: must be at least 0 and finite"),
    ("betas", 0.9, TypeError, r"betas=0.9: must be a pair of real numbers; pass betas=\(beta1"),
    ("betas", (0.9,), TypeError, r"betas=\(0.9,\): must be a pair"),
    ("betas", "ab", TypeError, r"betas='ab': must be a pair"),
    ("betas", (1.0, 0.9), ValueError, r"betas\[0\]=1.0: must be at least 0 and less than 1"),
    ("betas", (-0.1, 0.9), ValueError, r"betas\[0\]=-0.1: must be at least 0 and less than 1"),
    ("betas", (0.9, 1.1), ValueError, r"betas\[1\]=1.1: must be at least 0 and at most 1"),
    ("betas", (0.9, None), TypeError, r"betas\[1\]=None: must be a real number"),
    ("weight_decay", -1, ValueError, r"weight_decay=-1: must be at least 0 and finite; pass prior"),
    ("damping", -0.1, ValueError, r"damping=-0.1: must be at least 0 and finite; try 0.1"),
    ("s_init", 0, ValueError, r"s_init=0: must be greater than 0 and finite; try 1.0"),
    ("s_init", math.inf, ValueError, r"s_init=inf: must be greater than 0 and finite"),
    ("order", "both", ValueError, r"order='both': must be one of 'precision_first', 'mean_first'"),
    ("order", None, ValueError, r"order=None: must be one of"),
    ("foreach", 1, ValueError, r"foreach=1: must be one of None, False, True"),
    ("compiled", None, ValueError, r"compiled=None: must be one of False, True"),
    ("seed", -1, ValueError, r"seed=-1: must be at least 0 and less than 9223372036854775808"),
    ("seed", 2**63, ValueError, r"seed=9223372036854775808: must be at least 0 and less than"),
    ("seed", 1.0, TypeError, r"seed=1.0: must be an integer, not float; None draws one"),
]


def make(**options):
    params = [torch.nn.Parameter(torch.zeros(2))]
    return bsam.BSAM(params, **{"lr": 0.1, "num_data": 10, **options})


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in GOOD.items() for v in values])
def test_good(name, value):
    group = make(**{name: value}).param_groups[0]
    if value is not None:
        assert group[name] == (tuple(value) if name == "betas" else value)
    if not isinstance(value, torch.Tensor):
        kinds = (int, float, str, bool, tuple, type(None))
        assert type(group[name]) in kinds, "a state_dict must load with weights_only=True"


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_bad(name, value, error, message):
    with pytest.raises(error, match=message):
        make(**{name: value})


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_bad_in_a_group(name, value, error, message):
    optimizer = make()
    with pytest.raises(error, match=message + r".*\(parameter group 1\)"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], name: value})
    assert len(optimizer.param_groups) == 1


def test_the_floor_of_s_must_be_positive():
    message = r"weight_decay=0, damping=0.0: their sum must be positive, it is the floor of s; rais"
    with pytest.raises(ValueError, match=message):
        make(weight_decay=0, damping=0.0)
    make(weight_decay=0, damping=1e-9)
    make(weight_decay=1e-9, damping=0)


def test_num_data_has_no_default():
    with pytest.raises(TypeError, match="num_data"):
        bsam.BSAM([torch.nn.Parameter(torch.zeros(1))], 0.1)


def test_a_group_cannot_have_a_seed_of_its_own():
    optimizer = make(seed=3)
    param = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="seed=4: must be that of the other groups, 3"):
        optimizer.add_param_group({"params": [param], "seed": 4})
    optimizer.add_param_group({"params": [param], "seed": 3})


def test_seed_none_is_drawn_from_torch_and_kept():
    torch.manual_seed(0)
    a, b = make(), make()
    torch.manual_seed(0)
    c = make()
    assert a.param_groups[0]["seed"] == c.param_groups[0]["seed"] != b.param_groups[0]["seed"]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, "optimizer got an empty parameter list"),
        (torch.zeros(2), TypeError, "should be an iterable of Tensors or dicts"),
        (
            torch.nn.Linear(1, 1),
            TypeError,
            r"params=<Linear>: must be parameters, named parameters or groups of them; pass model.",
        ),
        (
            torch.nn.Linear(1, 1).parameters,
            TypeError,
            r"params=<Module.parameters>: must be parameters, .*; pass model.parameters\(\)",
        ),
        ([1, 2], TypeError, "optimizer can only optimize Tensors"),
        (
            [torch.zeros(2, dtype=torch.cfloat)],
            TypeError,
            r"parameter 0 of group 0, shape \(2,\) is c",
        ),
        (
            [("w", torch.zeros(2).to_sparse())],
            TypeError,
            "parameter 'w' is sparse: must be real and",
        ),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda params: bsam.BSAM(params, 0.1, num_data=1),
        lambda params: bsam.SAM(params, torch.optim.SGD, rho=0.1, lr=0.1),
    ],
)
def test_parameters_that_cannot_be_optimized(params, error, message, make):
    with pytest.raises(error, match=message):
        make(params)


@pytest.mark.parametrize(
    ("base", "options", "error", "message"),
    [
        (
            torch.optim.SGD,
            {"rho": -1.0},
            ValueError,
            "rho=-1.0: must be at least 0 and finite; try",
        ),
        (torch.optim.SGD, {"rho": "x"}, TypeError, "rho='x': must be a real number"),
        (torch.optim.SGD, {"adaptive": 1}, ValueError, "adaptive=1: must be one of False, True"),
        (torch.optim.SGD, {"lr": -3.0}, ValueError, "Invalid learning rate: -3.0"),
        (torch.optim.SGD, {"momentun": 0.9}, TypeError, "momentun"),
        (
            torch.optim.LBFGS,
            {},
            TypeError,
            "base_optimizer=LBFGS: must make its step from one grad",
        ),
        (
            functools.partial(torch.optim.LBFGS),
            {},
            TypeError,
            "base_optimizer=LBFGS: must make its step from one gradient",
        ),
        (bsam.BSAM, {}, TypeError, "base_optimizer=BSAM: must make its step from one gradient"),
        (
            "SGD",
            {},
            TypeError,
            "base_optimizer='SGD': must be an optimizer class; pass a class such",
        ),
    ],
)
def test_sam(base, options, error, message):
    with pytest.raises(error, match=message):
        bsam.SAM([torch.nn.Parameter(torch.zeros(1))], base, **{"rho": 0.1, "lr": 0.1, **options})


def test_sam_over_an_instance():
    params = [torch.nn.Parameter(torch.zeros(1))]
    base = torch.optim.SGD(params, lr=0.1)
    with pytest.raises(
        TypeError, match="<instance of SGD>: must be a class, not an instance; pass"
    ):
        bsam.SAM(params, base, rho=0.1)


@pytest.mark.parametrize("sam", [False, True])
def test_a_parameter_list_is_a_list_of_parameters(sam):
    params = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1))])
    if sam:
        optimizer = bsam.SAM(params, torch.optim.SGD, rho=0.1, lr=0.1)
    else:
        optimizer = bsam.BSAM(params, 0.1, num_data=1)
    assert len(optimizer.param_groups[0]["params"]) == 1
