"""The one place that reads lines, writes files and folders whole, and judges names that become paths."""

from vtlm_fairseq.files.writing import (  # noqa: F401
    MARKER,
    WholeFile,
    cannot_be_written,
    check_new_folder,
    check_writable,
    copy_file,
    faults_of_writing,
    is_stream,
    locked,
    mark_folder,
    new_folder,
    remove_folder,
    whole_file,
    write_lines,
    write_text,
)
