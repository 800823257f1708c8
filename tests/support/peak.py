"""Memory, counted in the storages that operations make."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """The most bytes that storages made inside of it have held at once.

    What the library needs inside of one operation, such as the workspace of LAPACK, is not seen;
    tensors on the meta device hold nothing.
    """

    def __init__(self):
        super().__init__()
        self.held, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if is_tensor(t)}
        result = function(*args, **kwargs)
        for t in filter(is_tensor, tree_leaves(result)):
            if t.untyped_storage()._cdata not in given:
                self.count(t.untyped_storage())
        return result

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.held:
            return
        self.held[key] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.forget, key)

    def forget(self, key):
        self.now -= self.held.pop(key, 0)


def is_tensor(x):
    return isinstance(x, torch.Tensor) and x.device.type != "meta"
