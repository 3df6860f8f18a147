"""An explicit implementation of the encoder of `model/patchtst.py` for training: forward and backward.

Equal to the plain module, which is the reference, in outputs and gradients up to rounding (tests/worker/
test_fast_path.py); only its dropout masks come from another random stream, in steps of 1/256. What makes it fast, by
gain (docs/benchmarks.md): shards, buffers that live as long as the training, dropout masks from random bytes instead of
one draw per number, an elementwise softmax (torch's is slow on rows shorter than a vector).

`threads` divides every batch into shards, each computed by one thread from end to end: they synchronise where a batch
norm needs the whole batch and at the end of a pass, not at every operation, so that other load costs little. Shards are
summed in a fixed order, so that the result is reproducible bit by bit.

Shape suffixes as in patchtst.py, and M = S x N tokens of a shard, Z = S x H attention heads of a shard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from retrain_worker.model.patchtst import PatchTST

#: one random byte per number determines its dropout
BYTE = 256
#: prefix of the encoder's parameters; those of the head use autograd
ENCODER = ("patch_embedding.", "pos_encoding", "transformer.")


def path_for(model: PatchTST, *, threads: int) -> PlainPath | FastPath:
    """The fastest implementation for the model's device."""
    if model.pos_encoding.device.type != "cpu":
        return PlainPath(model)
    return FastPath(model, threads=threads)


class PlainPath:
    """The plain module with autograd, for any device."""

    def __init__(self, model: PatchTST) -> None:
        self.model = model
        self.parameters = list(model.parameters())

    def __enter__(self) -> PlainPath:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, raw_BTF: Tensor) -> Tensor:
        """Logits (B,) of raw windows (B, T, F); `backward` of a function of them replaces the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        return self.model(raw_BTF)  # type: ignore[no-any-return]

    def clip_gradients(self, max_norm: float) -> None:
        """Clip the norm of all gradients to `max_norm`."""
        nn.utils.clip_grad_norm_(self.parameters, max_norm)


class FastPath(PlainPath):
    """The explicit implementation for a model on the CPU.

    Use it as a context manager, which holds the threads from one batch to the next.
    """

    def __init__(self, model: PatchTST, *, threads: int = 1) -> None:
        super().__init__(model)
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._head_gradients = [
            cast(Tensor, parameter.grad) for name, parameter in model.named_parameters() if not name.startswith(ENCODER)
        ]
        self._num_shards = threads
        self._all_gather = _AllGather(threads)
        self._shards: list[_Shard] = []
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> FastPath:
        # torch's threads synchronise at every operation, with busy waiting
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        if self._num_shards > 1:
            self._pool = ThreadPoolExecutor(self._num_shards - 1, "shard", torch.set_num_threads, (1,))
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __call__(self, raw_BTF: Tensor) -> Tensor:
        """Logits (B,) of raw windows (B, T, F); `backward` of a function of them replaces the gradients."""
        for gradient in self._head_gradients:
            gradient.zero_()
        with torch.no_grad():
            patches_SNP = self.model.patches(self.model.transform(raw_BTF))
        z_SND: Tensor = _Encoder.apply(self.model.pos_encoding, patches_SNP, self)  # type: ignore[no-untyped-call]
        return self.model.head(z_SND)

    def forward(self, patches_SNP: Tensor) -> Tensor:
        """Output (S, N, D) of the transformer for the patches."""
        if sum(shard.num_series for shard in self._shards) != len(patches_SNP):
            self._shards = self._new_shards(len(patches_SNP))
        parts = torch.split(patches_SNP, [shard.num_series for shard in self._shards])
        # seeded from torch's generator, whose state a resumed training restores
        seeds = torch.randint(2**62, (len(self._shards),)).tolist()
        for shard, part, seed in zip(self._shards, parts, seeds, strict=True):
            shard.begin(part, seed)
        return torch.cat(self._on_each(_Shard.forward))

    def backward(self, dz_SND: Tensor) -> None:
        """Compute the gradients of everything up to the encoder's output."""
        parts = torch.split(dz_SND.contiguous(), [shard.num_series for shard in self._shards])
        for shard, part in zip(self._shards, parts, strict=True):
            shard.dz_SND = part
        self._on_each(_Shard.backward)
        for shard in self._shards[1:]:
            for name, gradient in shard.gradients.items():
                self._shards[0].gradients[name].add_(gradient)

    def _new_shards(self, num_series: int) -> list[_Shard]:
        per_window = self.model.config.num_series
        windows = np.array_split(np.arange(num_series // per_window), self._num_shards)
        return [
            _Shard(
                self.model,
                num_series=len(part) * per_window,
                number=number,
                all_gather=self._all_gather,
            )
            for number, part in enumerate(windows)
        ]

    def _on_each(self, work: Callable[[_Shard], Any]) -> list[Any]:
        if self._pool is None:
            return [work(self._shards[0])]
        others = [self._pool.submit(self._all_gather.guarded, work, shard) for shard in self._shards[1:]]
        first = self._all_gather.guarded(work, self._shards[0])
        return [first, *(other.result() for other in others)]


class _Encoder(torch.autograd.Function):
    """autograd.Function that runs FastPath.forward and FastPath.backward."""

    @staticmethod
    def forward(ctx: Any, _weight: Tensor, patches_SNP: Tensor, path: FastPath) -> Tensor:
        ctx.path = path
        return path.forward(patches_SNP)

    @staticmethod
    def backward(ctx: Any, dz_SND: Tensor) -> tuple[None, None, None]:
        ctx.path.backward(dz_SND)
        return None, None, None


class _AllGather:
    """Gives every shard the values of all shards of a batch."""

    def __init__(self, num_shards: int) -> None:
        self._barrier = threading.Barrier(num_shards)
        # two alternating rounds: no shard overwrites what a slower one still reads
        self._rounds: list[list[Tensor]] = [[torch.empty(0)] * num_shards for _ in range(2)]

    def gather(self, number: int, turn: int, values: Tensor) -> Tensor:
        """All shards' `values`, stacked; shard `number` contributes its own in its `turn`-th round."""
        kept = self._rounds[turn % 2]
        kept[number] = values
        self._barrier.wait()
        return torch.stack(kept)

    def guarded(self, work: Callable[[_Shard], Any], shard: _Shard) -> Any:
        """Run `work`; a failure also ends the waiting of the other shards."""
        try:
            with torch.no_grad():
                return work(shard)
        except BaseException:
            self._barrier.abort()
            raise


# ---------------------------------------------------------------- one shard


class _Shard:
    """The encoder on `num_series` series of a batch, with its own gradients."""

    def __init__(
        self,
        model: PatchTST,
        *,
        num_series: int,
        number: int,
        all_gather: _AllGather,
    ) -> None:
        self.config, self.num_series = model.config, num_series
        self.num_tokens = num_series * model.config.num_patches
        self.ones_M = torch.ones(self.num_tokens)
        self.model = model
        #: by parameter of the encoder: gradient of the loss of this shard; the first shard's is that of the parameter
        self.gradients = {
            name: torch.empty_like(parameter) if number else cast(Tensor, parameter.grad)
            for name, parameter in model.named_parameters()
            if name.startswith(ENCODER)
        }
        self.dz_SND = torch.empty(0)
        self.random = np.random.SFC64(0)
        self._number, self._all_gather, self._turn = number, all_gather, 0
        self._patches_MP = torch.empty(0)
        self._embedding = _Linear(self, "patch_embedding", model.config.d_model)
        self._position_1ND, self._dposition_1ND = self.weight("pos_encoding")
        self._sublayers = [
            sublayer
            for index in range(model.config.num_layers)
            for sublayer in _layer(self, f"transformer.layers.{index}.")
        ]

    def begin(self, patches_SNP: Tensor, seed: int) -> None:
        """Set the input of the next `forward`."""
        self._patches_MP = patches_SNP.flatten(0, 1)
        self.random = np.random.SFC64(seed)

    def forward(self) -> Tensor:
        """(S, N, D)."""
        embedded_MD = self._embedding.forward(self._patches_MP)
        shape = (self.num_series, self.config.num_patches, self.config.d_model)
        x_MD = embedded_MD.view(shape).add_(self._position_1ND).view_as(embedded_MD)
        for sublayer in self._sublayers:
            x_MD = sublayer.forward(x_MD)
        return x_MD.view(shape)

    def backward(self) -> None:
        """Fill `gradients` for the output's gradient `dz_SND`."""
        dx_MD = self.dz_SND.flatten(0, 1)
        for sublayer in reversed(self._sublayers):
            dx_MD = sublayer.backward(dx_MD)
        torch.sum(dx_MD.view_as(self.dz_SND), 0, keepdim=True, out=self._dposition_1ND)
        self._embedding.backward_to_weights(dx_MD)

    # ---- building blocks

    def weight(self, name: str) -> tuple[Tensor, Tensor]:
        """The parameter `name`, and this shard's view of its gradient."""
        return self.model.get_parameter(name).detach(), self.gradients[name]

    @property
    def is_first(self) -> bool:
        """Let one of the shards update a value that is equal in all."""
        return self._number == 0

    def all_gather(self, values: Tensor) -> Tensor:
        """The `values` of all shards, stacked; all shards call it in the same order and wait for each other."""
        self._turn += 1
        return self._all_gather.gather(self._number, self._turn, values)


def _layer(shard: _Shard, name: str) -> tuple[_Residual, _Residual]:
    """The two sublayers of the layer whose parameters are called `name`..."""
    norm = _LayerNorm if shard.config.norm == "layernorm" else _BatchNorm
    return (
        _Residual(shard, _Attention(shard, name + "self_attn."), norm(shard, name + "norm1")),
        _Residual(shard, _FeedForward(shard, name), norm(shard, name + "norm2")),
    )


class _Residual:
    """x + dropout(inner(x)), normalised before or after."""

    def __init__(self, shard: _Shard, inner: _Attention | _FeedForward, norm: _LayerNorm | _BatchNorm) -> None:
        width = (shard.num_tokens, shard.config.d_model)
        self._inner, self._norm, self._is_pre_norm = inner, norm, shard.config.is_pre_norm
        self._dropout = _Dropout(shard, *width)
        self._sum_MD = torch.empty(width)
        self._dy_MD = torch.empty(width)

    def forward(self, x_MD: Tensor) -> Tensor:
        y_MD = self._inner.forward(self._norm.forward(x_MD) if self._is_pre_norm else x_MD)
        torch.add(x_MD, self._dropout.forward(y_MD, out=y_MD), out=self._sum_MD)
        return self._sum_MD if self._is_pre_norm else self._norm.forward(self._sum_MD)

    def backward(self, d_MD: Tensor) -> Tensor:
        if self._is_pre_norm:
            dy_MD = self._dropout.backward(d_MD, out=self._dy_MD)
            return self._norm.backward(self._inner.backward(dy_MD)) + d_MD
        dsum_MD = self._norm.backward(d_MD)
        dy_MD = self._dropout.backward(dsum_MD, out=self._dy_MD)
        return self._inner.backward(dy_MD).add_(dsum_MD)


class _Attention:
    """Multi-head self-attention."""

    def __init__(self, shard: _Shard, name: str) -> None:
        config = shard.config
        S, N, D, H = shard.num_series, config.num_patches, config.d_model, config.num_heads
        self._split = (S, N, 3, H, D // H)
        self._scale: float = (D // H) ** -0.5
        self._in = _Linear(shard, name + "in_proj", 3 * D, separator="_")
        self._out = _Linear(shard, name + "out_proj", D)
        self._dropout = _Dropout(shard, S * H, N, N)
        self._heads_3SHNK = torch.empty(3, S, H, N, D // H)
        self._shares_ZNN = torch.empty(S * H, N, N)
        #: after dropout
        self._kept_ZNN = torch.empty(S * H, N, N) if self._dropout.is_on else self._shares_ZNN
        self._attended_MD = torch.empty(S * N, D)
        self._dshares_ZNN, self._dscores_ZNN = torch.empty(2, S * H, N, N)
        self._dheads_3SHNK = torch.empty(3, S, H, N, D // H)
        self._heads_SHNK = torch.empty(S, H, N, D // H)
        self._dqkv_ME = torch.empty(S * N, 3 * D)

    def forward(self, x_MD: Tensor) -> Tensor:
        qkv_SN3HK = self._in.forward(x_MD).view(self._split)
        self._heads_3SHNK.copy_(qkv_SN3HK.permute(2, 0, 3, 1, 4))
        q_ZNK, k_ZNK, v_ZNK = self._heads_3SHNK.flatten(1, 2)
        shares_ZNN = _scaled_products(q_ZNK, k_ZNK.mT, self._scale, out=self._shares_ZNN)
        _softmax(shares_ZNN)
        kept_ZNN = self._dropout.forward(shares_ZNN, out=self._kept_ZNN)
        attended_ZNK = torch.bmm(kept_ZNN, v_ZNK, out=self._heads_SHNK.flatten(0, 1))
        self._tokens(self._attended_MD).copy_(attended_ZNK.view_as(self._heads_SHNK))
        return self._out.forward(self._attended_MD)

    def backward(self, dy_MD: Tensor) -> Tensor:
        dattended_MD = self._out.backward(dy_MD, out=self._dqkv_ME.view(3, *dy_MD.shape)[0])
        dattended_ZNK = self._heads_SHNK.copy_(self._tokens(dattended_MD)).flatten(0, 1)
        q_ZNK, k_ZNK, v_ZNK = self._heads_3SHNK.flatten(1, 2)
        dq_ZNK, dk_ZNK, dv_ZNK = self._dheads_3SHNK.flatten(1, 2)
        torch.bmm(self._kept_ZNN.mT, dattended_ZNK, out=dv_ZNK)
        dkept_ZNN = torch.bmm(dattended_ZNK, v_ZNK.mT, out=self._dshares_ZNN)
        dshares_ZNN = self._dropout.backward(dkept_ZNN, out=self._dshares_ZNN)
        # through the softmax: dscores = shares * (dshares - sum(shares * dshares))
        dscores_ZNN = torch.mul(self._shares_ZNN, dshares_ZNN, out=self._dscores_ZNN)
        dscores_ZNN.addcmul_(self._shares_ZNN, dscores_ZNN.sum(-1, keepdim=True), value=-1.0)
        _scaled_products(dscores_ZNN, k_ZNK, self._scale, out=dq_ZNK)
        _scaled_products(dscores_ZNN.mT, q_ZNK, self._scale, out=dk_ZNK)
        self._dqkv_ME.view(self._split).copy_(self._dheads_3SHNK.permute(1, 3, 0, 2, 4))
        return self._in.backward(self._dqkv_ME, out=self._attended_MD)

    def _tokens(self, x_MD: Tensor) -> Tensor:
        """The same numbers in the order (S, H, N, K)."""
        S, N, _three, H, K = self._split
        return x_MD.view(S, N, H, K).transpose(1, 2)


class _FeedForward:
    """Two linear layers, and between them the activation and dropout."""

    def __init__(self, shard: _Shard, name: str) -> None:
        config = shard.config
        wide = (shard.num_tokens, config.ffn_dim)
        self._is_relu = config.activation == "relu"
        self._first = _Linear(shard, name + "linear1", config.ffn_dim)
        self._second = _Linear(shard, name + "linear2", config.d_model)
        self._dropout = _Dropout(shard, *wide)
        self._active_MH = torch.empty(0 if self._is_relu else wide)
        self._dwide_MH, self._dx_MD = torch.empty(wide), torch.empty(shard.num_tokens, config.d_model)

    def forward(self, x_MD: Tensor) -> Tensor:
        hidden_MH = self._first.forward(x_MD)
        if self._is_relu:
            self._active_MH = hidden_MH.clamp_min_(0.0)
        else:
            self._hidden_MH = hidden_MH
            torch.ops.aten.gelu.out(hidden_MH, out=self._active_MH)
        return self._second.forward(self._dropout.forward(self._active_MH, out=self._active_MH))

    def backward(self, dy_MD: Tensor) -> Tensor:
        dwide_MH = self._second.backward(dy_MD, out=self._dwide_MH)
        self._dropout.backward(dwide_MH, out=dwide_MH)
        if self._is_relu:
            torch.ops.aten.threshold_backward.grad_input(dwide_MH, self._active_MH, 0.0, grad_input=dwide_MH)
        else:
            torch.ops.aten.gelu_backward.grad_input(dwide_MH, self._hidden_MH, grad_input=dwide_MH)
        return self._first.backward(dwide_MH, out=self._dx_MD)


class _Linear:
    """A linear layer with its own output buffer."""

    def __init__(self, shard: _Shard, name: str, width: int, *, separator: str = ".") -> None:
        self._weight_OI, self._dweight_OI = shard.weight(f"{name}{separator}weight")
        self._bias_O, self._dbias_O = shard.weight(f"{name}{separator}bias")
        self._ones_M = shard.ones_M
        self._y_MO = torch.empty(shard.num_tokens, width)
        self._x_MI = torch.empty(0)

    def forward(self, x_MI: Tensor) -> Tensor:
        self._x_MI = x_MI
        return torch.mm(x_MI, self._weight_OI.t(), out=self._y_MO).add_(self._bias_O)

    def backward(self, dy_MO: Tensor, *, out: Tensor) -> Tensor:
        self.backward_to_weights(dy_MO)
        return torch.mm(dy_MO, self._weight_OI, out=out)

    def backward_to_weights(self, dy_MO: Tensor) -> None:
        torch.mm(dy_MO.t(), self._x_MI, out=self._dweight_OI)
        torch.mv(dy_MO.t(), self._ones_M, out=self._dbias_O)


class _LayerNorm:
    """Over D, token by token."""

    def __init__(self, shard: _Shard, name: str) -> None:
        self._module: Any = shard.model.get_submodule(name)
        self._weight_D, self._dweight_D = shard.weight(name + ".weight")
        self._bias_D, self._dbias_D = shard.weight(name + ".bias")

    def forward(self, x_MD: Tensor) -> Tensor:
        self._x_MD = x_MD
        y_MD, *self._moments = torch.native_layer_norm(
            x_MD, x_MD.shape[1:], self._weight_D, self._bias_D, self._module.eps
        )
        return y_MD

    def backward(self, dy_MD: Tensor) -> Tensor:
        mean, inverse_std = self._moments
        dx_MD, dweight_D, dbias_D = torch.ops.aten.native_layer_norm_backward(
            dy_MD, self._x_MD, dy_MD.shape[1:], mean, inverse_std, self._weight_D, self._bias_D, (True, True, True)
        )
        self._dweight_D.copy_(dweight_D)
        self._dbias_D.copy_(dbias_D)
        return dx_MD  # type: ignore[no-any-return]


class _BatchNorm:
    """Over all tokens of the batch, including those of the other shards."""

    def __init__(self, shard: _Shard, name: str) -> None:
        self._shard = shard
        self._module: Any = shard.model.get_submodule(name)
        self._weight_D, self._dweight_D = shard.weight(name + ".weight")
        self._bias_D, self._dbias_D = shard.weight(name + ".bias")

    def forward(self, x_MD: Tensor) -> Tensor:
        self._x_MD = x_MD
        mean_D, var_D = torch.batch_norm_update_stats(x_MD, None, None, 0.0)
        # tokens, mean and variance of each shard (shards, 3, D); Chan's formula combines the variances
        tokens_AD, mean_AD, var_AD = self._shard.all_gather(
            torch.stack((torch.full_like(mean_D, len(x_MD)), mean_D, var_D))
        ).unbind(1)
        share_AD = tokens_AD / tokens_AD.sum(0)
        self._mean_D = (share_AD * mean_AD).sum(0)
        self._var_D = (share_AD * (var_AD + (mean_AD - self._mean_D).square())).sum(0)
        self._tokens = float(tokens_AD[:, 0].sum())
        if self._shard.is_first:
            self._keep_moments()
        return torch.native_batch_norm(
            x_MD, self._weight_D, self._bias_D, self._mean_D, self._var_D, False, 0.0, self._module.eps
        )[0]

    def _keep_moments(self) -> None:
        module, unbiased = self._module, self._tokens / max(1.0, self._tokens - 1.0)
        module.running_mean.lerp_(self._mean_D, module.momentum)
        module.running_var.lerp_(self._var_D * unbiased, module.momentum)
        module.num_batches_tracked += 1

    def backward(self, dy_MD: Tensor) -> Tensor:
        inverse_std_D = torch.rsqrt(self._var_D + self._module.eps)
        # with constant moments, which also gives the sums for the gradients of the moments
        dx_MD, dweight_D, dbias_D = torch.ops.aten.native_batch_norm_backward(
            dy_MD,
            self._x_MD,
            self._weight_D,
            self._mean_D,
            self._var_D,
            self._mean_D,
            inverse_std_D,
            False,
            self._module.eps,
            (True, True, True),
        )
        self._dweight_D.copy_(dweight_D)
        self._dbias_D.copy_(dbias_D)
        dweight_D, dbias_D = self._shard.all_gather(torch.stack((dweight_D, dbias_D))).sum(0)
        slope_D = self._weight_D * inverse_std_D / self._tokens
        dx_MD.addcmul_(self._x_MD, -slope_D * inverse_std_D * dweight_D)
        return dx_MD.add_(slope_D * (inverse_std_D * self._mean_D * dweight_D - dbias_D))  # type: ignore[no-any-return]


class _Dropout:
    """Keeps its mask from forward to backward."""

    def __init__(self, shard: _Shard, *shape: int) -> None:
        self._shard = shard
        self._dropped = min(round(shard.config.dropout * BYTE), BYTE - 1)
        self.mask = torch.empty(shape if self._dropped else 0)

    @property
    def is_on(self) -> bool:
        """Whether the dropout rate is positive."""
        return self._dropped > 0

    def forward(self, x: Tensor, *, out: Tensor) -> Tensor:
        return torch.mul(x, self._new_mask(), out=out) if self.is_on else x

    def backward(self, d: Tensor, *, out: Tensor) -> Tensor:
        return torch.mul(d, self.mask, out=out) if self.is_on else d

    def _new_mask(self) -> Tensor:
        """0, or 1 / (share kept) where a number is kept."""
        words = self._shard.random.random_raw(-(-self.mask.numel() // 8))
        drawn = torch.from_numpy(words).view(torch.uint8)[: self.mask.numel()].view_as(self.mask)
        return torch.ge(drawn, self._dropped, out=self.mask).mul_(BYTE / (BYTE - self._dropped))


def _softmax(scores_ZNN: Tensor) -> None:
    """In place, over the last dimension."""
    scores_ZNN.sub_(scores_ZNN.amax(-1, keepdim=True)).exp_()
    scores_ZNN.div_(scores_ZNN.sum(-1, keepdim=True))


def _scaled_products(a_ZIJ: Tensor, b_ZJK: Tensor, scale: float, *, out: Tensor) -> Tensor:
    """The products of a and b, times `scale`."""
    return torch.baddbmm(out, a_ZIJ, b_ZJK, beta=0.0, alpha=scale, out=out)
