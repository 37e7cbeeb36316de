"""Counting instructions in machine code that was recorded: nvcc is not needed."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import kernels
from benchmarks.kernels import Kernel, Resources
from torch_utils.ops import build

# nvcc 13.0, sm_90, mostly without encodings: numbers doubled in pairs, the odd last one alone; a sum of four;
# a call; a jump by a table.
RECORDED = """
		Function : doubled
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                    /* 0x00000a00ff017b82 */
                                                                             /* 0x000fe20000000800 */
        /*0010*/                   S2R R7, SR_TID.X ;
        /*0020*/                   ULDC UR4, c[0x0][0x220] ;
        /*0030*/                   SHF.L.U32 R7, R7, 0x1, RZ ;
        /*0040*/                   ISETP.GE.AND P0, PT, R7, UR4, PT ;
        /*0050*/               @P0 EXIT ;
        /*0060*/                   LDC.64 R2, c[0x0][0x210] ;
        /*0070*/                   IADD3 R0, R7, 0x1, RZ ;
        /*0080*/                   ISETP.GE.AND P0, PT, R0, UR4, PT ;
        /*0090*/                   ULDC.64 UR4, c[0x0][0x208] ;
        /*00a0*/                   LDC.64 R4, c[0x0][0x218] ;
        /*00b0*/                   IMAD.WIDE R2, R7, 0x4, R2 ;
        /*00c0*/                   IMAD.WIDE R4, R7, 0x4, R4 ;
        /*00d0*/              @!P0 BRA 0x120 ;
        /*00e0*/                   LDG.E R2, desc[UR4][R2.64] ;
        /*00f0*/                   FADD R7, R2, R2 ;
        /*0100*/                   STG.E desc[UR4][R4.64], R7 ;
        /*0110*/                   EXIT ;
        /*0120*/                   LDG.E.64 R2, desc[UR4][R2.64] ;
        /*0130*/                   FADD R7, R3, R3 ;
        /*0140*/                   FADD R6, R2, R2 ;
        /*0150*/                   STG.E.64 desc[UR4][R4.64], R6 ;
        /*0160*/                   EXIT ;
        /*0170*/                   BRA 0x170;
        /*0180*/                   NOP;
		..........

		Function : summed
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   MOV R0, RZ ;
        /*0020*/                   LDG.E R2, desc[UR4][R2.64] ;
        /*0030*/                   VIADD R0, R0, 0x1 ;
        /*0040*/                   ISETP.NE.AND P0, PT, R0, 0x4, PT ;
        /*0050*/                   FFMA R5, R2, R5, 1 ;
        /*0060*/               @P0 BRA 0x20 ;
        /*0070*/                   STG.E desc[UR4][R2.64], R5 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90;

		Function : divided
        /*0000*/                   MOV R10, 0x40 ;
        /*0010*/                   CALL.REL.NOINC 0x50 ;
        /*0020*/                   STG.E.U16 desc[UR4][R2.64], R5 ;
        /*0030*/                   EXIT ;
        /*0040*/                   BRA 0x40;
        /*0050*/                   IMAD R3, R3, R4, RZ ;
        /*0060*/                   IADD3 R3, R3, 0x1, RZ ;
        /*0070*/                   RET.REL.NODEC R2 0x0 ;

		Function : chosen
        /*0000*/                   BRX R2 -0x90 ;
        /*0010*/                   EXIT ;
"""
USAGE = """
 Function doubled:
  REG:10 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:548 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function summed:
  REG:64 STACK:0 SHARED:40384 LOCAL:0 CONSTANT[0]:548 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def test_the_way_of_a_thread_that_stores_all_at_once_counts() -> None:
    code = kernels.parse_disassembly(RECORDED)
    assert len(code["doubled"]) == 25
    assert kernels.count_path(code["doubled"]) == 19  # not the 18 by way of the single number
    assert kernels.count_path(code["divided"]) == 4 + 3


def test_a_loop_counts_as_often_as_it_runs_and_an_unknown_one_is_an_error() -> None:
    code = kernels.parse_disassembly(RECORDED)
    assert kernels.count_path(code["summed"], trips=(4,)) == 2 + 4 * 5 + 2
    with pytest.raises(ValueError, match="a loop whose number of trips is not known"):
        kernels.count_path(code["summed"])
    with pytest.raises(ValueError, match="a jump to an address that it computes"):
        kernels.count_path(code["chosen"])


def test_occupancy_by_what_runs_out_first() -> None:
    found = kernels.parse_resources(USAGE)
    assert found == {"doubled": Resources(10, 0), "summed": Resources(64, 40384)}
    assert kernels.occupancy(found["doubled"], 90) == 1
    assert kernels.occupancy(found["summed"], 90) == 0.5  # registers: 4 blocks of 256 threads
    assert kernels.occupancy(found["summed"], 86) == pytest.approx(2 / 6)  # shared memory: 2 blocks
    assert kernels.occupancy(found["summed"], 999) is None


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("upfirdn2d_4x4<__half, 1, 1, Tile<64, 32, 1, 4, 2, false>, 2>", Kernel("filter_nchw_fp16", 8)),
        ("upfirdn2d_4x4<float, 2, 1, Tile<64, 32, 1, 4, 2, false>, 1>", Kernel("up2_nchw_unaligned_fp32", 8)),
        ("upfirdn2d_4x4<float, 1, 2, Tile<8, 8, 16, 2, 2, false>, 1>", Kernel("down2_nchw_small_fp32", 4)),
        (
            "upfirdn2d_4x4_channels<__half, 1, 2, Tile<8, 16, 4, 2, 1, true>, 8>",
            Kernel("down2_nhwc_fp16", 16),
        ),
        ("upfirdn2d_separable<float, 2, 1, Tile<64, 32, 1, 2, 4, false>, 12>", Kernel("sep12_up2_fp32", 8)),
        ("upfirdn2d_separable<float, 2, 1, Tile<64, 32, 1, 2, 4, false>, 0>", None),
        ("bias_act_packs<__half, 0, Only<(Act)2>, 8, (Bias)1>", Kernel("bias_act_nchw_fp16", 8)),
        ("bias_act_packs<__nv_bfloat16, 1, Only<(Act)2>, 8, (Bias)0>", Kernel("bias_act_gradient_bf16", 8)),
        ("upfirdn2d_general<float, unsigned int>", None),
    ],
)
def test_kernels_are_known_by_their_names(name: Any, kernel: Any) -> None:
    assert kernels.identify(f"void ggdr::(anonymous namespace)::{name}(float const*)") == kernel


def test_without_nvcc_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    done = CliRunner().invoke(kernels.main, ["--json", str(tmp_path / "out.json")])
    assert done.exit_code != 0
    assert done.output.count("\n") == 1
    assert "no nvcc: install the CUDA toolkit" in done.output
    assert not (tmp_path / "out.json").exists()


def test_what_is_printed_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(build, "nvcc_version", lambda nvcc: "13.0")
    monkeypatch.setattr(kernels, "find_tool", lambda name, nvcc: name)
    monkeypatch.setattr(kernels, "run", lambda *command: "sm_80\nsm_90\n")
    row = {"kernel": "up2_nchw_fp16", "registers": 40, "shared": 512, "occupancy": 1.0}
    monkeypatch.setattr(
        kernels,
        "measure",
        lambda source, a, nvcc: (
            [row | {"architecture": f"sm_{a}", "instructions": a / 2}] if source == "upfirdn2d.cu" else []
        ),
    )
    done = CliRunner().invoke(kernels.main, ["--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert "| up2_nchw_fp16 | 40.0 | 40 | 512 | 1.00 | 45.0 | 40 | 512 | 1.00 |" in done.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["instructions_up2_nchw_fp16"] == 45.0
    assert written["architecture"] == "sm_90"
    assert len(written["rows"]) == 2
    done = CliRunner().invoke(kernels.main, ["--arch", "70"])
    assert done.exit_code != 0
    assert "--arch: nvcc does not know sm_70; it knows 80, 90" in done.output
