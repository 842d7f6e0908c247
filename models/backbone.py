"""The frozen backbone: a pretrained vision transformer seen as embed, blocks and read-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

PLAIN = (0.5, 0.5, 0.5)  # mean and standard deviation of most ViTs


class ModelError(ValueError):
    """A user's mistake about a model; the message says what is wrong and what to do."""


class Block(nn.Module):
    """One pre-norm transformer block, split where methods and adapters reach in.

    Attributes
    ----------
    is_trained_last : bool
        Whether its adapter acts in `join` alone, on what `split` returns.
    """

    is_trained_last = False

    def __init__(
        self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.self_attention = norm1, attention
        self.norm2, self.feed_forward = norm2, mlp

    @property
    def width(self) -> int:
        """Width D of the tokens."""
        assert isinstance(self.norm1, nn.LayerNorm)
        return self.norm1.normalized_shape[0]

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """Return the four modules, as the constructor takes them."""
        return self.norm1, self.self_attention, self.norm2, self.feed_forward

    def attention_branch(self, normed: Tensor) -> Tensor:
        """Run self-attention on layer-normed tokens: ``(B, N, D) -> (B, N, D)``."""
        output: Tensor = self.self_attention(normed)[0]
        return output

    def mlp_branch(self, normed: Tensor) -> Tensor:
        """Run the MLP on layer-normed tokens: ``(B, N, D) -> (B, N, D)``."""
        output: Tensor = self.feed_forward(normed)
        return output

    def attend(self, tokens: Tensor) -> Tensor:
        """Run the attention half with its residual: ``(B, N, D) -> (B, N, D)``."""
        return tokens + self.attention_branch(self.norm1(tokens))

    def transform(self, tokens: Tensor) -> Tensor:
        """Run the MLP half with its residual: ``(B, N, D) -> (B, N, D)``."""
        return self.join(tokens, self.mlp_branch(self.norm2(tokens)))

    def join(self, tokens: Tensor, output: Tensor) -> Tensor:
        """Add the MLP's output to the tokens that it was made of, ``(B, N, D)`` each."""
        return tokens + output

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block up to `join`; return what that takes, ``(B, N, D)`` each."""
        attended = self.attend(tokens)
        return attended, self.mlp_branch(self.norm2(attended))

    def forward(self, tokens: Tensor, output: Tensor | None = None) -> Tensor:
        """Run the whole block, ``(B, N, D) -> (B, N, D)``; with an `output`, `join` alone."""
        if output is None:
            return self.transform(self.attend(tokens))
        return self.join(tokens, output)

    def train(self, mode: bool = True) -> Block:
        """Stay in evaluation mode: a frozen part has no dropout and no running statistics."""
        del mode
        return super().train(False)


class Backbone(nn.Module):
    """A frozen transformer: ``embed``, ``blocks[0..L-1]`` and the class-token read-out.

    Parameters
    ----------
    embeddings : nn.Module
        Images ``(B, 3, S, S)`` to tokens ``(B, N, D)``, the class token first.
    blocks : Sequence[Block]
        The L transformer blocks.
    norm : nn.Module
        The final layer norm of the pretrained model.
    width, image_size : int
        Token width D, and the side S in pixels.
    mean, std : Sequence[float]
        Per channel; the normalisation the weights were trained with.
    fingerprint : int
        Of the pretrained weights, whatever the image size: adapters fit one backbone alone, and
        another of the same shape would run without an error.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        blocks: Sequence[Block],
        norm: nn.Module,
        *,
        width: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        fingerprint: int = 0,
    ) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.embed = embeddings
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.width = width
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)
        super().train(False)
        self.requires_grad_(False)

    @classmethod
    def of(
        cls,
        model: Any,
        *,
        mean: Sequence[float] = PLAIN,
        std: Sequence[float] = PLAIN,
        fingerprint: int = 0,
    ) -> Backbone:
        """Wrap transformers' `ViTModel` or `DeiTModel`; its modules are used, not copied."""
        # Attention without a matrix of scores, wherever torch has it.
        model.set_attn_implementation("sdpa")
        blocks = [
            Block(layer.layernorm_before, layer.attention, layer.layernorm_after, layer.mlp)
            for layer in model.layers
        ]
        return cls(
            model.embeddings,
            blocks,
            model.layernorm,
            width=model.config.hidden_size,
            image_size=model.embeddings.patch_embeddings.image_size[0],
            mean=mean,
            std=std,
            fingerprint=fingerprint,
        )

    @property
    def depth(self) -> int:
        """Number of blocks L."""
        return len(self.blocks)

    def num_parameters(self) -> int:
        """Count all weights: what exchanging the whole model would send."""
        return sum(parameter.numel() for parameter in self.parameters())

    @staticmethod
    def read_out(tokens: Tensor) -> Tensor:
        """Return the class token, ``(B, N, D) -> (B, D)``, without the final norm.

        A copy: a view would keep all tokens for as long as it is there.
        """
        return tokens[:, 0].clone()

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode, in which it is made: no dropout, no running statistics.

        Nothing is walked through: every client's training and scoring calls this.
        """
        del mode
        return self
