"""A pretended GPU: its tensors compute on the processor, but do not meet the processor's.

What a real GPU refuses, this refuses too: two devices in one operation, a generator of another
device, NumPy's arrays of a GPU's tensor. Its numbers are the processor's. It shows nothing of
speed, of memory, or of what runs at the same time.

It is PyTorch's backend slot for devices written in Python, with a dispatch mode. PyTorch may end
the process with an error when this leaves: whoever uses it ends by ``os._exit``.
"""

import contextlib

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
backend_registration._setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
aten = torch.ops.aten

COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
# reads and writes at places that the processor may hold
INDEXED = {aten.index.Tensor: 1}
INDEXED |= {aten.index_put.default: 1, aten.index_put_.default: 1, aten._index_put_impl_.default: 1}

# What autocast does on a GPU, as far as transformers need it.
NARROW = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
WIDE = ("layer_norm", "softmax.int", "rsqrt", "mse_loss", "cross_entropy_loss")


class OnGpu(torch.Tensor):
    """A tensor that says it is on the pretended GPU; ``held`` is the processor's."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self):
        return f"OnGpu({self.held!r})"

    def tolist(self):
        return self.held.tolist()

    def data_ptr(self):
        return self.held.data_ptr()

    def __deepcopy__(self, memo):
        made = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        made._is_param = isinstance(self, torch.nn.Parameter)
        return made

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {DEVICE} tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


class _Met:
    """What an operation is given: whether a GPU's tensor, and which of the processor's."""

    def __init__(self):
        self.gpu, self.processor = False, []

    def held(self, value, within=False):
        """Return a value with the processor's tensors in the place of the GPU's."""
        if isinstance(value, OnGpu):
            self.gpu = True
            return value.held
        if isinstance(value, torch.Tensor):
            if value.dim() or within:  # a number of the processor's may meet a GPU's tensor
                self.processor.append(value)
            return value
        if isinstance(value, (list, tuple)):
            return type(value)([self.held(part, within=True) for part in value])
        return value


def _refused(operation, what):
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found {DEVICE} and cpu "
        f"({operation}: {what})"
    )


def _check(operation, args, met):
    """Raise what a GPU would where tensors of two devices meet."""
    if operation in COPIES or not (met.gpu and met.processor):
        return
    if operation in INDEXED and isinstance(args[0], OnGpu):
        values = args[2] if len(args) > 2 else None
        if not isinstance(values, torch.Tensor) or isinstance(values, OnGpu) or not values.dim():
            return
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in met.processor[:3])
    raise _refused(operation, f"the processor's are of shape {shapes}")


def _computed(operation, args, kwargs):
    """Return what an operation gives, on the device where a GPU would leave it."""
    if operation is aten._efficientzerotensor.default:  # a tangent's zeros, without memory
        operation = aten.zeros.default
    met = _Met()
    held_args = [met.held(value) for value in args]
    held_kwargs = {name: met.held(value) for name, value in kwargs.items()}
    _check(operation, args, met)
    there = met.gpu
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == NAME
        held_kwargs["device"] = torch.device("cpu")
    if there and kwargs.get("generator") is not None:
        raise _refused(operation, "the generator is the processor's")
    if kwargs.get("pin_memory"):
        held_kwargs["pin_memory"] = False
    found = operation(*held_args, **held_kwargs)
    if "out" in kwargs:
        return kwargs["out"]
    if operation._schema.is_mutable and operation._schema.name.endswith("_"):
        return args[0] if operation._schema.returns else None
    return _on_gpu(found) if there else found


def _on_gpu(value):
    """Return a value with its tensors on the pretended GPU."""
    if isinstance(value, torch.Tensor):
        return OnGpu(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_on_gpu(part) for part in value])
    return value


class _Everywhere(TorchDispatchMode):
    """Also what is made on the GPU, or has no tensor of it yet."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # PyTorch's compiler is not used; to keep it out costs a sixth of the time

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


def _autocast():
    """Let ``torch.autocast`` work on the pretended GPU; return what must be kept for it."""
    key = "AutocastPrivateUse1"
    inside = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    every, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(torch.library.fallthrough_kernel, key)

    def cast(value, dtype):
        castable = isinstance(value, torch.Tensor) and value.device.type == NAME
        if castable and value.is_floating_point() and value.dtype != torch.float64:
            return value.to(dtype)
        return value

    def register(name, dtype):
        operation = getattr(aten, name.partition(".")[0])
        operation = getattr(operation, name.partition(".")[2] or "default")

        def kernel(*args, **kwargs):
            to = dtype or torch.get_autocast_dtype(NAME)
            with torch._C._ExcludeDispatchKeyGuard(inside):
                kwargs = {word: cast(value, to) for word, value in kwargs.items()}
                return operation(*[cast(value, to) for value in args], **kwargs)

        some.impl(name, kernel, key)

    for name in NARROW:
        register(name, None)
    for name in WIDE:
        register(name, torch.float32)
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
    return every, some


_AUTOCAST = _autocast()


@contextlib.contextmanager
def pretended_gpu():
    """Let there be a pretended GPU within the context; its device is returned."""
    lifted = torch._C._only_lift_cpu_tensors()
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        # PyTorch's own thread for a device's gradients crashes on tensors of Python's
        with torch.autograd.set_multithreading_enabled(False), _Everywhere():
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
