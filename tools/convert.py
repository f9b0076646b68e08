"""Convert KITTI, Pascal VOC or YOLO data to COCO's layout, or back; see `--help`."""

from greedyprune.entry import run_command

if __name__ == "__main__":
    run_command("convert")
