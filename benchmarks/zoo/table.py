def write_table(path, records):
    pass
