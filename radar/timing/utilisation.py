"""How much of a device a training step uses: model operations over what the device could do (MFU, arXiv 2204.02311).

Legend: S slots, L layers, D width, N cells.
"""

from typing import Any

import torch

from radar.training.generator import GeneratorModule
from radar.training.layouts import packed

Row = dict[str, Any]
# Dense products in bfloat16, operations per second, by NVIDIA's data sheets; by a part of the device's name, in order.
DATA_SHEETS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362.05e12,
    "RTX 4090": 165.2e12,
}


def utilisation(module: GeneratorModule, row: Row) -> Row:
    """Columns of a row of training: tokens per second, and shares of the device's rate of products.

    `mfu` counts attention as dense, over the rate that was measured; `mfu_of_mask` counts the pairs of slots that the
    mask lets see each other; `mfu_data_sheet` is the former over the data sheet, in bfloat16 on a device that is known.
    """
    flops_per_s = row["flops_per_image"] * row["images_per_s"]
    columns = {"tokens_per_s": row["images_per_s"] * module.cells, "mfu": 1 / row["over_floor"]}
    if (share := needed(module, row["flops_per_image"])) is not None:
        columns["mfu_of_mask"] = share * columns["mfu"]
    name = torch.cuda.get_device_name(module.device) if module.device.type == "cuda" else ""
    sheet = next((rate for part, rate in DATA_SHEETS.items() if part in name), None)
    if sheet is not None and row["dtype"] == "bfloat16":
        columns["mfu_data_sheet"] = flops_per_s / sheet
    return columns


def needed(module: GeneratorModule, flops: float) -> float | None:
    """Share of the operations of an image that the mask needs; None where every iteration has another one."""
    if module.config.model.query_share or module.layout(module).share != 1:
        return None
    shape, slots = module.model.shape, len(packed(module).slots)
    attention = 12.0 * shape.layers * shape.dim * slots**2  # 4 D S^2 forward, twice that backward
    return 1 - attention * (1 - float(module.mask.double().mean())) / flops


def training_table(rows: list[Row]) -> str:
    """Lay out the rows of training as text; empty where there are none."""
    rows = [row for row in rows if "mfu" in row]
    if not rows:
        return ""
    width = max(len(row["arm"]) for row in rows)
    lines = [
        f"{'arm':{width}} {'batch':>5} {'tokens/s':>10} {'MFU':>6} {'of mask':>8} {'data sheet':>10} {'peak MB':>8}"
    ]
    for row in rows:
        shares = [f"{row[key]:.1%}" if key in row else "" for key in ("mfu", "mfu_of_mask", "mfu_data_sheet")]
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        lines.append(
            f"{row['arm']:{width}} {row['batch']:5} {row['tokens_per_s']:10,.0f} {shares[0]:>6} {shares[1]:>8} "
            f"{shares[2]:>10} {peak:>8}"
        )
    return "\n".join(lines)
