import subprocess
import sys


def test_the_metrics_need_neither_rich_nor_anything_optional():
    code = (
        "import sys; import everlearn.metrics; "
        "loaded = {'rich', 'pyarrow', 'sklearn', 'datasets', 'PIL'} & set(sys.modules); "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
