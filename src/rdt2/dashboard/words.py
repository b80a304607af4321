"""What the page says, in English and in Chinese.

Reasons (why an arm slows, pauses or was stopped) come from the loop in English. The guard's are a handful of sentences
with numbers in them, which are translated; of others, such as a driver's, the English words are shown.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: dict[str, Language] = {"English": "en", "中文": "zh"}

_WORDS: dict[str, tuple[str, str]] = {
    "loading": ("Loading the policy", "正在加载策略"),
    "ready": ("Ready. Nothing moves until you press start.", "就绪。按下“开始”之前，机械臂不会运动。"),
    "ready, dead man": ("Ready. Hold the button to drive.", "就绪。按住按钮才会运动。"),
    "running": ("The arms move", "机械臂正在运动"),
    "over": ("Episode over", "本次结束"),
    "emergency": ("EMERGENCY STOP", "已急停"),
    "emergency, why": ("The arms stay stopped until you release it.", "解除急停之前，机械臂保持停止。"),
    "pauses": ("The arms pause", "机械臂暂停"),
    "slowed": ("Safety holds back", "安全层正在限制"),
    "done": ("done", "完成"),
    "not done": ("not done", "未完成"),
    "estop": ("EMERGENCY STOP", "急 停"),
    "release": ("Release the emergency stop", "解除急停"),
    "start": ("Start", "开始"),
    "stop": ("Stop", "停止"),
    "pause": ("Pause", "暂停"),
    "next": ("Go on", "继续"),
    "take": ("Take over", "接管"),
    "give back": ("Give back to the policy", "交还给策略"),
    "taken": ("A person drives", "由人操作"),
    "keep": ("Keep the last seconds", "保留最近几秒"),
    "hold": ("Hold to drive", "按住以运动"),
    "instruction": ("Instruction", "指令"),
    "say": ("Tell the arms", "发送指令"),
    "left": ("left wrist", "左腕"),
    "right": ("right wrist", "右腕"),
    "success": ("Mark: success", "标记：成功"),
    "failure": ("Mark: failure", "标记：失败"),
    "marked success": ("marked: success", "已标记：成功"),
    "marked failure": ("marked: failure", "已标记：失败"),
    "time": ("Time (s)", "时间（秒）"),
    "live": ("Follow live", "跟随实时"),
    "plot": ("Plot", "曲线"),
    "timing": ("timing (ms)", "耗时（毫秒）"),
    "events": ("Events", "事件"),
    "more": ("More", "更多"),
    "right arm": ("right arm", "右臂"),
    "left arm": ("left arm", "左臂"),
    "x": ("x (mm)", "x（毫米）"),
    "y": ("y (mm)", "y（毫米）"),
    "z": ("z (mm)", "z（毫米）"),
    "width": ("opening (mm)", "开口（毫米）"),
    "raw": ("chunk", "动作块"),
    "made": ("after safety", "经安全层"),
    "sent": ("sent", "已发送"),
    "measured": ("measured", "实测"),
    "inference": ("inference", "推理"),
    "delay": ("picture to chunk", "图像到动作"),
    "period": ("servo period", "伺服周期"),
    "picture": ("age of the pictures acted on", "所依据图像的时延"),
    "age": ("age of states", "状态时延"),
    "goes on": ("The next episode begins by itself", "自动开始下一次"),
    "dead man": ("Dead man's switch: move only while a button is held", "使能开关：仅在按住按钮时运动"),
    "language": ("Language", "语言"),
    "nothing": ("Nothing was held back so far.", "目前没有任何限制。"),
}
_REASONS = [
    (r"^right arm ", "右臂"),
    (r"^left arm ", "左臂"),
    (r"the right arm", "右臂"),
    (r"the left arm", "左臂"),
    (r"stays in its workspace: the wish is (\d+) mm outside", r"留在工作空间内：期望位置超出 \1 毫米"),
    (r"stays over the table: the wish is (\d+) mm too low", r"保持在桌面以上：期望位置低了 \1 毫米"),
    (
        r"comes back slowly: it is (\d+) mm outside of what is allowed",
        r"缓慢返回：超出允许范围 \1 毫米",
    ),
    (r"follows within its limits of ([\d.]+) m/s", r"按限速 \1 米/秒跟随"),
    (r"stops: the other arm is in its way", "停止：另一只臂挡住了去路"),
    (r"it would touch itself", "会碰到自身"),
    (r"it would touch (右臂|左臂)", r"会碰到\1"),
    (r"it would touch the (.+)$", r"会碰到 \1"),
    (r"presses no harder: something holds it", "不再加力：有东西挡住它"),
    (r"gives way: ", "让开："),
    (r"stops: ", "停止："),
    (r"slows: ", "减速："),
    (r"brakes: no motion was found", "制动：找不到可行的运动"),
    (r"^(右臂|左臂)brakes$", r"\1制动"),
    (r"(\d+) mm from itself", r"距自身 \1 毫米"),
    (r"(\d+) mm from (右臂|左臂)", r"距\2 \1 毫米"),
    (r"(\d+) mm from the (.+)$", r"距 \2 \1 毫米"),
    (r"it is at the table", "已到桌面"),
    (r"one of its links is at the table", "有连杆已到桌面"),
    (r"it is at the end of its workspace", "已到工作空间边界"),
    (r"its joints cannot follow", "关节跟不上"),
    (r"a joint would be too fast", "关节会超速"),
    (r"its posture would be singular", "姿态接近奇异"),
    (
        r"its posture is nearly singular \(([\d.]+), it stops at ([\d.]+)\)",
        r"姿态接近奇异（\1，到 \2 停止）",
    ),
    (r"joint (\d+) is (\d+) degrees from where it stops", r"关节 \1 距停止处 \2 度"),
    (r"joint (\d+) is at its top speed", r"关节 \1 已达最高速度"),
    (r"a joint is at its limit", "关节已到极限"),
    (r"^emergency stop on the page.*", "在页面上按下了急停"),
    (r"^stopped on the page.*", "在页面上按下了停止"),
    (r"^stopped at the keyboard.*", "在键盘上按下了停止"),
    (r"^stopped: the operator has left.*", "停止：操作员已离开"),
    (r"^stopped: what was typed failed.*", "停止：输入的内容未能执行"),
    (r"^stopped: the terminal, or what typed into it, has ended.*", "停止：终端已结束"),
    (r"^paused by the operator$", "操作员已暂停"),
    (r"^dry run: nothing is enabled$", "试运行：未使能任何设备"),
    (r"^the dead man's switch on the page was let go.*", "松开了使能开关"),
    (r"^the page has ended, and with it the dead man's switch.*", "页面已结束，使能开关随之松开"),
    (r"^release the emergency stop first$", "请先解除急停"),
    (r"^nothing moves until you start it$", "您开始之前，机械臂不会运动"),
    (r"^the operator said something meanwhile$", "操作员中途有别的指示"),
    (r"^the mark came too late: .*", "标记来得太迟：对应的那次已结束，未作标记"),
    (r"^start came too soon: .*", "来得太早：请再按一次或再输入一次“开始”"),
    (r"^there is nothing to take over$", "目前没有可以接管的运动"),
    (r"^the keys are those of the terminal: type take there$", "按键由终端接收：请在终端输入 take"),
    (r"^nothing is kept: .*", "没有可保留的内容：请用 --record 文件夹 --record-last 30 启动"),
    (r"^time is up.*", "时间到"),
    (r"^done.*", "完成"),
]


def word(key: str, language: Language) -> str:
    """What is said for `key`."""
    return _WORDS[key][0 if language == "en" else 1]


def reason(text: str, language: Language) -> str:
    """One or several reasons ("; " between them) as the language says them."""
    if language == "en":
        return text
    return "；".join(_translated(each) for each in text.split("; ")) if text else ""


def _translated(text: str) -> str:
    for pattern, chinese in _REASONS:
        text = re.sub(pattern, chinese, text)
    return text
